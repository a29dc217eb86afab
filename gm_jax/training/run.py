"""What stays the same during a run: built and checked from a config before anything is written."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gm_jax.build import build_model, load_dataset, resolve
from gm_jax.core import Model, Variables
from gm_jax.data.dataset import data_variance
from gm_jax.data.digest import content_digest
from gm_jax.data.feed import make_feed
from gm_jax.data.sources import Dataset, absolute
from gm_jax.errors import InputError
from gm_jax.system import provenance
from gm_jax.training import learning, profile, workdirs
from gm_jax.training.batches import Keys, seed_keys
from gm_jax.training.checkpoints import Checkpoints
from gm_jax.training.heldout import make_heldout
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.parallel import PARALLEL, Parallel, Program
from gm_jax.training.restore import graft, parse_init_from
from gm_jax.training.start import abstract_state, first_batch
from gm_jax.training.watch import Watch, Watcher

STEPS_PER_DISPATCH = 16  # on an accelerator, where the config leaves it to us


class Run(NamedTuple):
    """All that stays the same during a run."""

    config: dict[str, Any]
    workdir: Path
    dataset: Dataset
    data_digest: str
    parallel: Parallel
    model: Model  # for the train step: reduces over the parallel mode's axis
    eval_model: Model  # the same, for one logical device
    optimizers: dict[str, Any]
    keys: Keys
    steps_per_dispatch: int
    abstract: learning.TrainState  # shapes and dtypes
    watchers: tuple[Watcher, ...]
    window: profile.Window  # the steps to trace


def prepare(config: Mapping[str, Any], workdir: Path, dataset: Dataset | None, watch: Watch) -> Run:
    """Checks everything that can be checked before any work is done, and writes nothing to the work directory."""
    config = resolve(config)
    config["train"]["init_from"] = parse_init_from(config["train"]["init_from"])
    config["data"]["name"] = absolute(config["data"]["name"])
    parallel = PARALLEL[config["parallel"]]()
    check_split(config["train"], parallel.devices)
    window = profile.parse_window(config["profile"])
    dataset = dataset or load_dataset(config)
    variance = data_variance(dataset.x_train)
    build = partial(build_model, config, dataset.image_shape, dataset.num_classes, data_variance=variance)
    model, eval_model = parallel.adapt(build(parallel.axis_name)), build(None)
    optimizers = build_optimizers(config, model)
    on_cpu = jax.default_backend() == "cpu"  # loops are slow there: benchmarks/conv_gradient_in_loop.py
    abstract = abstract_state(eval_model, optimizers, dataset.image_shape, dataset.num_classes)
    return Run(
        config=config,
        workdir=workdir,
        dataset=dataset,
        data_digest=content_digest(dataset),
        parallel=parallel,
        model=model,
        eval_model=eval_model,
        optimizers=optimizers,
        keys=seed_keys(config["seed"]),
        steps_per_dispatch=config["train"]["steps_per_dispatch"] or (1 if on_cpu else STEPS_PER_DISPATCH),
        abstract=abstract,
        watchers=tuple(watch(config, dataset, eval_model, Variables(abstract.params, abstract.state))),
        window=window,
    )


def check_split(settings: Mapping[str, Any], devices: int) -> None:
    """Raises InputError for a batch that does not split evenly."""
    parts = settings["accum"] * devices
    if settings["batch_size"] % parts:
        near = max(parts, round(settings["batch_size"] / parts) * parts)
        raise InputError(
            f"train.batch_size={settings['batch_size']} does not split into {settings['accum']} microbatches "
            f"on {devices} devices; use a multiple of {parts}, such as {near}"
        )


def record_of(run: Run, init_from: Mapping[str, Any]) -> workdirs.Record:
    """What config.json is to say of the run."""
    return workdirs.Record(
        config=run.config,
        image_shape=run.dataset.image_shape,
        num_classes=run.dataset.num_classes,
        class_names=run.dataset.class_names,
        train_images=len(run.dataset.x_train),
        data_digest=run.data_digest,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(run.abstract.params)),
        init_from=init_from,
        hardware=provenance.hardware(),
        versions=provenance.versions(),
    )


def restore_or_start(run: Run, checkpoints: Checkpoints) -> tuple[learning.TrainState, workdirs.Record]:
    """The newest readable checkpoint of the work directory, or a fresh state; and what config.json is to say."""
    if (run.workdir / "config.json").exists():
        train_state = checkpoints.restore(run.abstract, run.parallel.shardings(run.abstract))
        if train_state is not None:
            return train_state, record_of(run, workdirs.read(run.workdir).init_from)
    data = run.dataset
    batch = first_batch(run.keys, data.x_train, data.y_train, run.config["data"]["flip"], data.binarize)
    placed = run.parallel.shardings(run.abstract)  # no device ever holds more than it will in training
    init = jax.jit(lambda: run.eval_model.init(run.keys.init, batch), out_shardings=Variables(placed.params, placed.state))
    variables, origins = graft(init(), run.config["train"]["init_from"], run.config["model"])
    start = jax.jit(partial(learning.with_variables, run.model, run.optimizers), out_shardings=placed)
    return start(variables), record_of(run, origins)


def compile_run(run: Run) -> tuple[Callable, Program, Callable]:
    """The feed, the dispatch and the held-out loss; compiled when first called."""
    data, settings = run.dataset, run.config["train"]
    feed = make_feed(
        (data.x_train, data.y_train),
        run.parallel,
        batch_size=settings["batch_size"],
        seed=run.config["seed"],
        device_bytes=run.config["data"]["device_bytes"],
    )
    options = {"flip": run.config["data"]["flip"], "binarize": data.binarize}
    options |= {"accum": settings["accum"], "axis_name": run.parallel.axis_name}
    train_step = learning.make_train_step(run.model, run.optimizers, run.keys, **options)
    heldout = make_heldout(run.eval_model, run.keys, data.x_test, data.y_test, settings["batch_size"])
    return feed, run.parallel.compile(learning.make_dispatch(train_step), run.abstract), heldout


def next_dispatch(run: Run, step: int) -> tuple[int, tuple[str, ...]]:
    """How many steps to dispatch from `step` on (until something is due), and the objectives that are active in all of them."""
    objectives, settings = run.model.objectives, run.config["train"]
    active = [o for o in objectives if learning.in_window(o, step)]
    if run.steps_per_dispatch == 1:
        return 1, tuple(o.name for o in active if learning.is_due(o, step))
    periods = [settings[name] for name in ("log_every", "heldout_every", "checkpoint_every", "keep_every")]
    periods += [watcher.every for watcher in run.watchers]
    ends = [settings["steps"], step + run.steps_per_dispatch]
    ends += [(step // period + 1) * period for period in periods if period]
    ends += [edge for edge in run.window if edge > step]
    ends += [edge for o in objectives for edge in (o.start, o.stop) if edge is not None and edge > step]
    return min(ends) - step, tuple(o.name for o in active)
