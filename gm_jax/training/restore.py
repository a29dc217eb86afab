"""From a work directory back to a trained model, and parts of it to where another run begins."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.build import build_model, resolve
from gm_jax.core import Model, PyTree, Variables
from gm_jax.data.dataset import subset
from gm_jax.errors import InputError
from gm_jax.system import provenance
from gm_jax.training import learning, workdirs
from gm_jax.training.batches import make_batch, seed_keys
from gm_jax.training.checkpoints import Checkpoints
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.start import abstract_state


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
    config = resolve(record.config)
    model = build_model(config, record.image_shape, record.num_classes)
    optimizers = build_optimizers(config, model)
    abstract = abstract_state(model, optimizers, record.image_shape, record.num_classes)
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


def recalibrated(
    model: Model, variables: Variables, data: np.ndarray, labels: np.ndarray | None, seed: int = 0, n: int = 1024
) -> Variables:
    """Variables whose BatchNorm and spectral-norm statistics fit their (averaged) parameters.

    n training examples, chosen at random but always the same, are passed through. A model without `recalibrate` is returned as
    it is.
    """
    if model.recalibrate is None:
        return variables
    rows = subset(len(data), n)
    of_rows = None if labels is None else jnp.asarray(labels[rows])
    batch = make_batch(seed_keys(seed), 0, jnp.arange(len(rows)), jnp.asarray(data[rows]), of_rows, False)
    return variables._replace(state=jax.jit(model.recalibrate)(variables, batch))


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


def graft(
    variables: Variables, init_from: Mapping[str, str], settings: Mapping[str, Any] | None = None
) -> tuple[Variables, dict[str, Any]]:
    """Replaces parts of fresh variables by the parameters of other runs, and says where they came from.

    A target is a path such as "state/teacher", "params" or "params/encoder"; a source is "WORKDIR:ema" or "WORKDIR:raw", with
    "/PATH" behind for a part of its parameters. `settings` is the config's section of the model: a target whose last part names
    a section of it, such as "teacher", must come from a model of just those settings, since equal shapes may hide another
    function. Raises InputError where paths, shapes or settings do not match.
    """
    origins = {}
    for target, source in init_from.items():
        workdir, _, rest = source.rpartition(":")
        workdir = str(Path(workdir).expanduser()) if workdir else ""
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
        _check_settings(target, (settings or {}).get(target.rpartition("/")[2]), resolve(record.config)["model"])
        origins[target] = {
            "source": source,
            "weights": restored.weights,  # a source without EMA has raw weights only
            "step": restored.step,
            "digest": provenance.digest(part),
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


def _check_settings(target: str, wanted: Any, given: Mapping[str, Any]) -> None:
    if not isinstance(wanted, Mapping) or "name" not in wanted:
        return
    wanted, given = (dict(workdirs.flatten(section)) for section in (wanted, given))
    for field in sorted(wanted.keys() | given.keys()):
        if wanted.get(field) != given.get(field):
            raise InputError(
                f"target {target!r} of train.init_from: its {field} is {wanted.get(field)!r} here and {given.get(field)!r} in "
                "the source; give the part the settings of its source"
            )
