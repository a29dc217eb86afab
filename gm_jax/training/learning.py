"""One train step for every model: a pure function from a state and a batch to the next state.

A model brings objectives (core.Objective); each has its own optimizer and updates its own group of parameters. The step runs
the active ones in order, each seeing what the former left. Two-player games, two-stage models and plain ones need no more.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Int

from gm_jax.core import Batch, Key, Metrics, Model, Objective, PyTree, Variables, scan
from gm_jax.training.batches import Keys, make_batch
from gm_jax.training.optimizers import SkipLargeState, averages


class TrainState(NamedTuple):
    """All that changes in training, and all that a checkpoint holds."""

    step: Int[Array, ""]  # updates made so far
    params: PyTree
    state: PyTree
    opt_state: dict[str, PyTree]  # by the name of the objective whose optimizer it is


class Finite(NamedTuple):
    """Which numbers of one objective's update were finite, so that a failure can be named."""

    terms: dict[str, Bool[Array, ""]]
    grads: Bool[Array, " leaves"]  # in the order of `jax.tree.leaves` of the objective's group


class StepOutput(NamedTuple):
    """What a step says of itself."""

    metrics: dict[str, tuple[Array, Array]]  # "objective/term" -> (sum, count); a skipped objective counts 0
    finite: dict[str, Finite]  # by objective name


# --- groups, windows, averages ------------------------------------------------------------------------------------------------


def averaged_params(train_state: TrainState, objectives: tuple[Objective, ...]) -> PyTree:
    """The parameters with each group that has an EMA replaced by it; the others as they are."""
    params = train_state.params
    for objective in objectives:
        for average in averages(train_state.opt_state[optimizer_name(objective)]):
            params = replace_group(params, objective.group, average.ema)
    return params


def has_ema(train_state: TrainState) -> bool:
    """Whether any objective averages its parameters."""
    return bool(averages(train_state.opt_state))


def select_group(params: PyTree, group: str | None) -> PyTree:
    """The parameters of a group, such as "generator" or "autoencoder/critic"; None: all."""
    return functools.reduce(lambda tree, key: tree[key], group.split("/") if group else [], params)


def replace_group(params: PyTree, group: str | None, new: PyTree) -> PyTree:
    """`params` with those of a group replaced."""
    if group is None:
        return new
    head, _, rest = group.partition("/")
    return {**params, head: replace_group(params[head], rest or None, new)}


def optimizer_name(objective: Objective) -> str:
    """The objective whose optimizer updates this one's parameters."""
    return objective.optimizer or objective.name


def in_window(objective: Objective, step: int) -> bool:
    """Whether the objective is active at this step."""
    return objective.start <= step and (objective.stop is None or step < objective.stop)


def is_due(objective: Objective, step: int | Array) -> bool | Array:
    """Whether an active objective updates at this step: at the end of each run of `every` steps."""
    return (step - objective.start) % objective.every == objective.every - 1


def init_state(model: Model, optimizers: Mapping[str, optax.GradientTransformation], key: Key, batch: Batch) -> TrainState:
    """The state before the first step. `batch` is a real batch, for data-dependent initialisation."""
    params, state = model.init(key, batch)
    return with_variables(model, optimizers, Variables(params, state))


def with_variables(model: Model, optimizers: Mapping[str, optax.GradientTransformation], variables: Variables) -> TrainState:
    """The state before the first step, from given variables."""
    params, state = variables
    own = [o for o in model.objectives if o.optimizer is None]
    opt_state = {o.name: optimizers[o.name].init(select_group(params, o.group)) for o in own}
    return TrainState(jnp.zeros([], jnp.int32), params, state, opt_state)


# --- the step -----------------------------------------------------------------------------------------------------------------


def gradients(
    objective: Objective, params: PyTree, state: PyTree, key: Key, batch: Batch, step: Array, axis_name: str | None
) -> tuple[tuple[PyTree, Metrics], PyTree]:
    """((new_state, metrics), gradients of the objective's group), averaged over the devices of `axis_name`."""

    def loss_fn(group_params):
        loss, (new_state, metrics) = objective.loss(
            replace_group(params, objective.group, group_params), state, key, batch, step=step, train=True
        )
        return loss, (new_state, {"loss": loss, **metrics})

    grads, (new_state, metrics) = jax.grad(loss_fn, has_aux=True)(select_group(params, objective.group))
    if axis_name is not None:
        grads, metrics = jax.lax.pmean((grads, metrics), axis_name)
    return (new_state, metrics), grads


def accumulated_gradients(
    objective: Objective,
    params: PyTree,
    state: PyTree,
    key: Key,
    batch: Batch,
    step: Array,
    axis_name: str | None,
    accum: int,
) -> tuple[tuple[PyTree, Metrics], PyTree]:
    """As `gradients`, over `accum` microbatches in turn.

    Example i goes to microbatch i % accum, so that a batch that is sharded over devices stays evenly sharded; each example
    keeps its own key. Statistics that couple examples are those of a microbatch.
    """
    if accum == 1:
        return gradients(objective, params, state, key, batch, step, axis_name)
    micro = jax.tree.map(lambda a: a.reshape(a.shape[0] // accum, accum, *a.shape[1:]).swapaxes(0, 1), batch)

    def one(carry, xs):
        state, totals = carry
        (state, metrics), grads = gradients(objective, params, state, *xs, step, axis_name)
        return (state, jax.tree.map(jnp.add, totals, (metrics, grads))), None

    keys = jax.random.split(key, accum)
    first = jax.tree.map(lambda a: a[0], (keys, micro))
    (_, metrics), grads = jax.eval_shape(lambda xs: gradients(objective, params, state, *xs, step, axis_name), first)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), (metrics, grads))
    (state, totals), _ = scan(one, (state, zeros), (keys, micro))
    metrics, grads = jax.tree.map(lambda a: a / accum, totals)
    return (state, metrics), grads


def update(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    train_state: TrainState,
    key: Key,
    batch: Batch,
    axis_name: str | None,
    accum: int,
) -> tuple[TrainState, dict[str, tuple[Array, Array]], Finite]:
    """One update of one objective: (train_state, metrics, finite).

    Where the optimizer skips large updates (`skip_large`), a skipped one leaves `state` alone, too. Nothing is wrong then: what
    was not finite weighs nothing, and the metric `skipped` is 1 (so in the log: the share of skipped updates).
    """
    step, params, state, opt_state = train_state
    name = optimizer_name(objective)
    (new_state, metrics), grads = accumulated_gradients(objective, params, state, key, batch, step, axis_name, accum)
    group = select_group(params, objective.group)
    updates, new_opt = optimizer.update(grads, opt_state[name], group)
    params = replace_group(params, objective.group, optax.apply_updates(group, updates))
    if objective.after is not None:
        new_state = objective.after(params, new_state, step=step)
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    finite = Finite(
        {term: jnp.isfinite(value).all() for term, value in metrics.items()},
        jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]),
    )
    weighed = {term: (jnp.float32(1) * value, jnp.float32(1)) for term, value in metrics.items()}
    if isinstance(new_opt, SkipLargeState):
        skipped = new_opt.skipped > opt_state[name].skipped
        new_state = jax.tree.map(lambda old, new: jnp.where(skipped, old, new), state, new_state)
        counted = {term: ok | ~skipped for term, ok in finite.terms.items()}
        weighed = {term: (jnp.where(counted[term], value, 0), jnp.float32(counted[term])) for term, value in metrics.items()}
        weighed["skipped"] = (jnp.float32(skipped), jnp.float32(1))
        finite = jax.tree.map(lambda ok: ok | skipped, finite)
    return TrainState(step, params, new_state, {**opt_state, name: new_opt}), weighed, finite


def make_train_step(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    keys: Keys,
    *,
    flip: bool = False,
    binarize: bool = False,
    accum: int = 1,
    axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, StepOutput]]:
    """`step(train_state, data, labels, active, gated=False) -> (train_state, StepOutput)`; the last two are static.

    `active` names the objectives of this step. With `gated`, an objective of period `every` > 1 is wrapped in a `lax.cond` on
    the step; otherwise every named objective updates, and the caller names just those that are due.
    `data` are stored images, uint8 [batch, h, w, c], or points, float32 [batch, dim]: the local share of the batch where
    `axis_name` is given, else the global batch.
    """

    def step(train_state: TrainState, data, labels, active: tuple[str, ...], gated: bool = False):
        now = train_state.step
        size = data.shape[0]
        device = jnp.int32(0) if axis_name is None else jax.lax.axis_index(axis_name)
        total = size if axis_name is None else size * jax.lax.psum(1, axis_name)
        batch = make_batch(keys, now, device * size + jnp.arange(size), data, labels, flip, total, binarize)
        dropout = jax.random.fold_in(jax.random.fold_in(keys.dropout, now), device)
        output = StepOutput({}, {})
        for i, objective in enumerate(model.objectives):
            if objective.name not in active:
                continue

            def run(ts, objective=objective, i=i):
                key = jax.random.fold_in(dropout, i)
                optimizer = optimizers[optimizer_name(objective)]
                return update(objective, optimizer, ts, key, batch, axis_name, accum)

            def skip(ts, run=run):
                _, metrics, finite = jax.eval_shape(run, ts)
                return ts, *_neutral((metrics, finite))

            if gated and objective.every > 1:
                train_state, metrics, finite = jax.lax.cond(is_due(objective, now), run, skip, train_state)
            else:
                train_state, metrics, finite = run(train_state)
            output.metrics.update({f"{objective.name}/{term}": value for term, value in metrics.items()})
            output.finite[objective.name] = finite
        return train_state._replace(step=now + 1), output

    return step


def make_dispatch(step: Callable) -> Callable:
    """`dispatch(train_state, data[k, ...], labels[k, ...], n, active) -> (train_state, StepOutput, failed)`: `n` <= k steps.

    Metrics are summed over the steps. `failed` is -1, or else the number of the first step with a non-finite loss or gradient:
    nothing is done after it, and the output's `finite` is of that step. `n` is dynamic: one compilation per active set.
    k = 1 runs the step as it is, without loop or `cond`.
    """

    def failed_step(train_state, output):
        flags = [leaf.all() for leaf in jax.tree.leaves(output.finite)]
        return jnp.where(jnp.stack(flags).all(), -1, train_state.step - 1) if flags else jnp.int32(-1)

    def dispatch(train_state, data, labels, n, active: tuple[str, ...]):
        if data.shape[0] == 1:
            train_state, output = step(train_state, *jax.tree.map(lambda a: a[0], (data, labels)), active)
            return train_state, output, failed_step(train_state, output)

        def body(carry):
            i, train_state, total, _ = carry
            example = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), (data, labels))
            train_state, output = step(train_state, *example, active, gated=True)
            summed = jax.tree.map(jnp.add, total.metrics, output.metrics)
            return i + 1, train_state, StepOutput(summed, output.finite), failed_step(train_state, output)

        first = jax.tree.map(lambda a: a[0], (data, labels))
        shapes = jax.eval_shape(lambda ts: step(ts, *first, active, gated=True)[1], train_state)
        start = (jnp.int32(0), train_state, _neutral(shapes), jnp.int32(-1))
        _, train_state, output, failed = jax.lax.while_loop(lambda c: (c[0] < n) & (c[3] < 0), body, start)
        return train_state, output, failed

    return dispatch


def _neutral(shapes: PyTree) -> PyTree:
    """Sums of nothing, and flags that nothing was wrong."""
    return jax.tree.map(lambda a: jnp.full(a.shape, a.dtype == bool, a.dtype), shapes)
