"""From a plain dict of settings to a data set, a model and its optimizers; from a work directory back to a trained model."""

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gm_jax.core import Batch, Model, Objective, PyTree, Variables
from gm_jax.data import sources
from gm_jax.errors import InputError
from gm_jax.training import learning, workdirs
from gm_jax.training.checkpoints import Checkpoints

MODELS = {
    "classifier": "gm_jax.models.classifier",
    "ddpm": "gm_jax.models.ddpm",
    "mmd_vae": "gm_jax.models.mmd_vae",
    "ncsn": "gm_jax.models.ncsn",
    "vae": "gm_jax.models.vae",
    "vqvae": "gm_jax.models.vqvae",
}

OPTIMIZERS: dict[str, Callable[[Mapping[str, Any]], optax.GradientTransformation]] = {
    "adam": lambda s: optax.scale_by_adam(s["b1"], s["b2"], s["eps"]),
    "sgd": lambda s: optax.trace(s["b1"]),  # b1 is the momentum
}

# schedule(learning rate, number of updates) -> optax schedule, after the warm-up
SCHEDULES: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda lr, _: optax.constant_schedule(lr),
    "linear": lambda lr, n: optax.linear_schedule(lr, 0.0, n),
    "cosine": lambda lr, n: optax.cosine_decay_schedule(lr, n),
}

INIT_BATCH = 128  # examples that a model's data-dependent initialisation sees at most


def _choose(table: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in table:
        raise InputError(f"unknown {what} {name!r}; known: {', '.join(sorted(table))}")
    return table[name]


def load_dataset(config: Mapping[str, Any]) -> sources.Dataset:
    """The data set that `config["data"]` names. Raises InputError where it cannot be had."""
    data = config["data"]
    return sources.load(data["name"], dir=data["dir"], resize=data["resize"])


def compute_dtype(precision: str) -> jnp.dtype:
    """The dtype of activations; parameters, optimizer and losses stay float32."""
    low = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(_choose({"auto": low, "float32": jnp.float32, "bfloat16": jnp.bfloat16}, precision, "precision"))


def build_model(
    config: Mapping[str, Any], image_shape: tuple[int, int, int], num_classes: int | None, axis_name: str | None = None
) -> Model:
    """Calls the model's `make` with `config["model"]`, and those of image_shape, num_classes, dtype, axis_name that it names.

    `config["model"]["name"]` is a key of MODELS, or the dotted path of a module of yours that has a `make`.
    Raises InputError for an unknown name or keyword, and for values that `make` refuses.
    """
    kwargs = dict(config["model"])
    name = kwargs.pop("name", "")
    module = name if "." in name else _choose(MODELS, name, "model")
    try:
        make = importlib.import_module(module).make
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(
            f"model {name!r} cannot be used ({error}); give the path of an importable module that has a make()"
        ) from error
    context = {
        "image_shape": tuple(image_shape),
        "num_classes": num_classes,
        "dtype": compute_dtype(config["precision"]),
        "axis_name": axis_name,
    }
    accepted = inspect.signature(make).parameters
    for key in kwargs:
        if key in context:
            raise InputError(f"model.{key} cannot be set: it follows from the data, precision and parallel; leave it out")
        if key not in accepted:
            nearest = difflib.get_close_matches(key, [k for k in accepted if k not in context], n=1, cutoff=0.0)
            hint = f"the nearest known one is {nearest[0]!r}" if nearest else "it takes none"
            raise InputError(f"model {name!r} has no keyword {key!r}; {hint}")
    kwargs |= {key: value for key, value in context.items() if key in accepted}
    try:
        return make(**{key: _as_tuple(value) for key, value in kwargs.items()})
    except (ValueError, TypeError) as error:
        raise InputError(f"model {name!r}: {error}") from error


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value  # JSON knows lists only


def build_optimizer(settings: Mapping[str, Any], objective: Objective) -> optax.GradientTransformation:
    """Clipping, the optimizer, decoupled weight decay, the schedule and the EMA, as far as `settings` ask for them.

    The schedule counts the objective's own updates over its own window (or over `horizon` updates), never over the length of
    the run: so a rerun may raise the number of steps without altering the steps already made.
    """
    endless = objective.stop is None
    window = 0 if endless else (objective.stop - objective.start) // objective.every
    horizon = settings["horizon"] or window
    make_schedule = _choose(SCHEDULES, settings["schedule"], "schedule")
    if settings["schedule"] != "constant" and not horizon:
        raise InputError(
            f"schedule {settings['schedule']!r} of {objective.name!r} needs a length; set optimizer.horizon (in updates)"
        )
    warmup, rate = settings["warmup_steps"], settings["learning_rate"]
    schedule = make_schedule(rate, max(horizon - warmup, 1))
    if warmup:  # the first update already moves: rate / warmup, 2 rate / warmup, ...
        schedule = optax.join_schedules([optax.linear_schedule(rate / warmup, rate, max(warmup - 1, 1)), schedule], [warmup])
    parts = [
        optax.clip_by_global_norm(settings["clip_norm"]) if settings["clip_norm"] else None,
        _choose(OPTIMIZERS, settings["name"], "optimizer")(settings),
        optax.add_decayed_weights(settings["weight_decay"]) if settings["weight_decay"] else None,
        optax.scale_by_learning_rate(schedule),
        learning.params_ema(settings["ema_decay"], settings["ema_warmup"]) if settings["ema_decay"] else None,
    ]
    return optax.chain(*[part for part in parts if part is not None])


def build_optimizers(config: Mapping[str, Any], model: Model) -> dict[str, optax.GradientTransformation]:
    """One optimizer per objective. A dict under an objective's name in `config["optimizer"]` overrides the common settings."""
    common = {key: value for key, value in config["optimizer"].items() if not isinstance(value, Mapping)}
    own = {key: value for key, value in config["optimizer"].items() if isinstance(value, Mapping)}
    names = [objective.name for objective in model.objectives]
    for key in own:
        if key not in names:
            raise InputError(f"optimizer.{key} names no objective of this model; its objectives are {', '.join(names)}")
        for field in own[key]:
            if field not in common:
                raise InputError(f"unknown field optimizer.{key}.{field}; known: {', '.join(common)}")
    return {o.name: build_optimizer({**common, **own.get(o.name, {})}, o) for o in model.objectives}


def first_batch(config: Mapping[str, Any], keys: learning.Keys, images: np.ndarray, labels: np.ndarray | None) -> Batch:
    """The batch that `model.init` sees, from stored images: the same on every device count."""
    n = min(config["train"]["batch_size"], INIT_BATCH, len(images))
    rows = None if labels is None else jnp.asarray(labels[:n])
    return learning.make_batch(keys, 0, jnp.arange(n), jnp.asarray(images[:n]), rows, config["data"]["flip"])


def abstract_state(
    config: Mapping[str, Any],
    model: Model,
    optimizers: Mapping[str, Any],
    image_shape: tuple[int, ...],
    num_classes: int | None,
) -> learning.TrainState:
    """Shapes and dtypes of the train state, without computing anything."""
    n = min(config["train"]["batch_size"], INIT_BATCH)
    images = jax.ShapeDtypeStruct((n, *image_shape), np.uint8)
    labels = None if num_classes is None else jax.ShapeDtypeStruct((n,), np.int32)

    def init(images, labels):
        keys = learning.seed_keys(0)
        batch = learning.make_batch(keys, 0, jnp.arange(n), images, labels, False)
        return learning.init_state(model, optimizers, keys.init, batch)

    return jax.eval_shape(init, images, labels)


class Restored(NamedTuple):
    """A trained model and the weights of its newest checkpoint."""

    model: Model
    variables: Variables
    step: int
    weights: str  # "ema" or "raw": what the variables really are (a model trained without EMA has raw weights only)


def restore(workdir: str | Path, weights: str = "ema") -> Restored:
    """The model of a work directory. Needs neither the data set nor the devices that it was trained on.

    Raises InputError where there is no run, no readable checkpoint, or `weights` is neither "ema" nor "raw".
    """
    if weights not in ("ema", "raw"):
        raise InputError(f"unknown weights {weights!r}; choose ema or raw")
    record = workdirs.read(Path(workdir))
    model = build_model(record.config, record.image_shape, record.num_classes)
    optimizers = build_optimizers(record.config, model)
    abstract = abstract_state(record.config, model, optimizers, record.image_shape, record.num_classes)
    with Checkpoints(Path(workdir)) as checkpoints:
        train_state = checkpoints.restore(abstract, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]), repair=False)
    if train_state is None:
        raise InputError(f"{workdir} has no checkpoint yet; train it first")
    averaged = weights == "ema" and learning.has_ema(train_state)
    params = learning.averaged_params(train_state, model.objectives) if averaged else train_state.params
    return Restored(model, Variables(params, train_state.state), int(train_state.step), "ema" if averaged else "raw")


def load(workdir: str | Path, weights: str = "ema") -> tuple[Model, Variables]:
    """A trained model for use in other code: `model, variables = load("runs/ddpm")`, then `model.sample(variables, keys)`."""
    restored = restore(workdir, weights)
    return restored.model, restored.variables


def recalibrated(model: Model, variables: Variables, images: np.ndarray, seed: int = 0, n: int = 1024) -> Variables:
    """Variables whose BatchNorm statistics fit their (averaged) parameters: the first n training images are passed through.

    A model without `recalibrate` is returned as it is.
    """
    if model.recalibrate is None:
        return variables
    keys, index = learning.seed_keys(seed), jnp.arange(min(n, len(images)))
    batch = learning.make_batch(keys, 0, index, jnp.asarray(images[: len(index)]), None, False)
    return variables._replace(state=jax.jit(model.recalibrate)(variables, batch.keys, batch.x))


# --- grafts: parts of another run to start from -------------------------------------------------------------------------------


def parse_init_from(spec: str | Mapping[str, str]) -> dict[str, str]:
    """`{"state/teacher": "WORKDIR:ema"}`, also written "state/teacher=WORKDIR:ema" (several separated by commas)."""
    if isinstance(spec, Mapping):
        return dict(spec)
    pairs = [part.strip().partition("=") for part in spec.split(",") if part.strip()]
    for target, equals, source in pairs:
        if not (target and equals and source):
            raise InputError(f"train.init_from={spec!r} is not of the form TARGET=WORKDIR:WEIGHTS[,...]")
    return {target: source for target, _, source in pairs}


def graft(variables: Variables, init_from: Mapping[str, str]) -> tuple[Variables, dict[str, Any]]:
    """Replaces parts of fresh variables by the parameters of other runs, and says where they came from.

    A target is a path such as "state/teacher", "params" or "params/encoder"; a source is "WORKDIR:ema" or "WORKDIR:raw", with
    "/PATH" behind for a part of its parameters. Raises InputError where paths or shapes do not match.
    """
    origins = {}
    for target, source in init_from.items():
        workdir, _, rest = source.rpartition(":")
        weights, _, path = rest.partition("/")
        if not workdir:
            raise InputError(
                f"source {source!r} of train.init_from does not say which weights; write WORKDIR:ema or WORKDIR:raw"
            )
        restored = restore(workdir, weights)
        part = _at(restored.variables.params, path.split("/") if path else [], source)
        head, *tail = target.split("/")
        if head not in Variables._fields:
            raise InputError(f"target {target!r} of train.init_from must begin with params or state")
        variables = variables._replace(**{head: _put(getattr(variables, head), tail, part, target)})
        record = workdirs.read(Path(workdir))
        origins[target] = {
            "source": source,
            "weights": restored.weights,  # a source without EMA has raw weights only
            "step": restored.step,
            "digest": workdirs.digest(part),
            "config": record.config,
        }
    return variables, origins


def _at(tree: PyTree, path: list[str], name: str) -> PyTree:
    for key in path:
        known = list(tree) if isinstance(tree, Mapping) else []
        if key not in known:
            raise InputError(f"{name!r} of train.init_from: there is no {key!r}; known: {', '.join(known) or 'nothing'}")
        tree = tree[key]
    return tree


def _put(tree: PyTree, path: list[str], new: PyTree, name: str) -> PyTree:
    if path:
        child = _put(_at(tree, path[:1], name), path[1:], new, name)
        return {**tree, path[0]: child}
    shapes = [{jax.tree_util.keystr(p): a.shape for p, a in jax.tree_util.tree_leaves_with_path(t)} for t in (tree, new)]
    if shapes[0] != shapes[1]:
        odd = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0][0] or "the top"
        raise InputError(
            f"target {name!r} of train.init_from and its source differ, first at {odd}; use a source of the same network"
        )
    return new
