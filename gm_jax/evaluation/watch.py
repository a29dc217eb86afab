"""What evaluation shows of a model while it is being trained: pictures of samples, and a quick number for their quality."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gm_jax.core import Model, Variables
from gm_jax.data.dataset import Dataset
from gm_jax.errors import InputError
from gm_jax.evaluation.draw import balanced_labels, draw_samples
from gm_jax.evaluation.pictures import picture
from gm_jax.evaluation.proxy import Proxy, make_proxy
from gm_jax.training.watch import Sight, Watcher

POINTS = 20  # points are drawn for every image that `train.samples` asks for: a plot takes thousands


def watchers(config: Mapping[str, Any], dataset: Dataset, model: Model, abstract: Variables) -> Sequence[Watcher]:
    """Those that `train.proxy_every` and `train.sample_every` ask for. Raises InputError as `make_proxy` does."""
    settings = config["train"]
    proxy = make_proxy(config, dataset, model, abstract)
    found = [] if proxy is None else [_watch_proxy(proxy, settings["proxy_every"])]
    if settings["sample_every"]:
        found.append(Watcher("samples", settings["sample_every"], _samples(config, dataset, model)))
    return found


def _watch_proxy(proxy: Proxy, every: int) -> Watcher:
    """From the same noise every time, so that the curve is smooth."""

    def prepare(say: Callable[[str], None]) -> None:
        say(f"{proxy.name}: features of its reference")
        proxy.reference()

    return Watcher(proxy.name, every, lambda variables: Sight({proxy.name: proxy.measure(variables)}), prepare)


def _samples(config: Mapping[str, Any], dataset: Dataset, model: Model) -> Callable[[Variables], Sight]:
    """From the same noise every time: one watches the same images improve."""
    settings, points = config["eval"], len(dataset.image_shape) == 1
    n = config["train"]["samples"] * (POINTS if points else 1)
    labels = balanced_labels(model.num_classes, n, settings["labels"])

    def look(variables: Variables) -> Sight:
        drawn = draw_samples(model, variables, n, config["seed"], settings["batch_size"], labels, settings["sample"])
        if drawn.shape[-1] not in ((2,) if points else (1, 3)):
            raise InputError(f"no picture shows {'points' if points else 'channels'} of {drawn.shape[-1]} numbers")
        return Sight(pictures={"samples": picture(dataset, drawn, labels)})

    return look
