"""A quick number for the quality of samples while a model is being trained, for curves.

It is the Frechet distance of few samples to training images. Its name says how many of either, and through which extractor:
"proxy/fid768_256_train2560" is that of 256 samples to 2560 training images (at random, but always the same) on Inception's 768
features. With so few samples it is far above the value of the full protocol, and comparable with nothing but itself.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gm_jax.core import Model, Variables
from gm_jax.data.dataset import Dataset, subset
from gm_jax.data.toys import TOYS
from gm_jax.evaluation import extractors
from gm_jax.evaluation.draw import balanced_labels, draw_samples
from gm_jax.evaluation.plane import exact_masses
from gm_jax.metrics.extractor import extract
from gm_jax.metrics.frechet import distance_of_samples
from gm_jax.metrics.judge import metric_name
from gm_jax.metrics.points import histogram_distance
from gm_jax.metrics.reference import Reference, make_reference

REAL_PER_SAMPLE = 10  # training images in the reference: Inception takes half an hour for all of CIFAR-10 on a CPU


class Proxy(NamedTuple):
    """A metric of training."""

    name: str  # "proxy/" and the protocol
    reference: Callable[[], Any]  # what is compared with; computed in the first call, or read from the cache
    measure: Callable[[Variables], float]  # raises InputError where samples are not finite


def make_proxy(config: Mapping[str, Any], dataset: Dataset, model: Model, abstract: Variables) -> Proxy | None:
    """The proxy that `config["train"]["proxy_every"]` asks for; None for 0.

    `abstract` are the shapes of the model's variables. Raises InputError where the extractor cannot be had, the model does not
    sample with the options of `config["eval"]["sample"]`, or there are too few samples for a covariance.
    """
    if not config["train"]["proxy_every"]:
        return None
    n, options = config["train"]["proxy_n"], config["eval"]["sample"]
    keys, labels = jax.random.split(jax.random.key(0), 1), balanced_labels(model.num_classes, n, config["eval"]["labels"])
    jax.eval_shape(functools.partial(model.sample, **options), abstract, keys)

    def draw(variables: Variables) -> np.ndarray:
        return draw_samples(model, variables, n, config["seed"], config["eval"]["batch_size"], labels, options)

    if len(dataset.image_shape) == 1:
        return _of_points(dataset, n, draw)
    extractor = extractors.choose(config["eval"], dataset)
    real = dataset.x_train[subset(len(dataset.x_train), REAL_PER_SAMPLE * n)]
    split = "train" if len(real) == len(dataset.x_train) else f"train{len(real)}"

    @functools.cache
    def reference() -> Reference:
        return make_reference(extractor, real, f"{dataset.name} {split}")

    def measure(variables: Variables) -> float:
        return distance_of_samples(extract(extractor, draw(variables)).features, reference().statistics)

    return Proxy(f"proxy/{metric_name('fid', extractor.name, n, split)}", reference, measure)


def _of_points(dataset: Dataset, n: int, draw: Callable[[Variables], np.ndarray]) -> Proxy:
    """Of points the distance of their histogram to the exact density."""
    masses = functools.cache(functools.partial(exact_masses, dataset))
    return Proxy(
        f"proxy/histogram_distance_{n}",
        masses,
        lambda variables: histogram_distance(draw(variables), masses(), TOYS[dataset.name].box),
    )
