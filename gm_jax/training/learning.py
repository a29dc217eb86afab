"""One train step for every model: a pure function from a state and a batch to the next state.

A model brings objectives (core.Objective); each has its own optimizer and updates its own group of parameters. The step runs
the active ones in order, each seeing what the former left. Two-player games, two-stage models and plain ones need no more.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Int, UInt8

from gm_jax.core import Batch, Key, Labels, Metrics, Model, Objective, PyTree, Variables
from gm_jax.errors import InputError
from gm_jax.images import to_float


class TrainState(NamedTuple):
    """All that changes in training, and all that a checkpoint holds."""

    step: Int[Array, ""]  # updates made so far
    params: PyTree
    state: PyTree
    opt_state: dict[str, PyTree]  # by objective name


class Finite(NamedTuple):
    """Which numbers of one objective's update were finite, so that a failure can be named."""

    terms: dict[str, Bool[Array, ""]]
    grads: Bool[Array, " leaves"]  # in the order of `jax.tree.leaves` of the objective's group


class StepOutput(NamedTuple):
    """What a step says of itself."""

    metrics: dict[str, tuple[Array, Array]]  # "objective/term" -> (sum, count); a skipped objective counts 0
    finite: dict[str, Finite]  # by objective name


# --- exponential moving average of parameters ---------------------------------------------------------------------------------


class ParamsEmaState(NamedTuple):
    """State of `params_ema`."""

    count: Int[Array, ""]
    ema: PyTree


def params_ema(decay: float, warmup: bool = True) -> optax.GradientTransformation:
    """Averages the parameters that the chain before it produces: ema <- d * ema + (1 - d) * (params + updates).

    Put it last in `optax.chain`; updates pass through unchanged. With `warmup`, d = min(decay, (1 + n) / (10 + n)) at the n-th
    update (as `tf.train.ExponentialMovingAverage` with `num_updates`), so that short runs soon forget their initial weights.
    `optax.ema` averages the *updates*, which is another thing.

    Raises:
        InputError: `decay` outside [0, 1).
        ValueError: `update` called without params.
    """
    if not 0.0 <= decay < 1.0:
        raise InputError(f"ema_decay must lie in [0, 1), got {decay}; 0 is off")

    def init(params):
        return ParamsEmaState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.array, params))

    def update(updates, state, params=None):
        if params is None:
            raise ValueError("params_ema needs the parameters: call update(updates, state, params)")
        d = jnp.minimum(decay, (1 + state.count) / (10 + state.count)) if warmup else decay
        ema = jax.tree.map(lambda e, p, u: (d * e + (1 - d) * (p + u)).astype(e.dtype), state.ema, params, updates)
        return updates, ParamsEmaState(state.count + 1, ema)

    return optax.GradientTransformation(init, update)


def averaged_params(train_state: TrainState, objectives: tuple[Objective, ...]) -> PyTree:
    """The parameters with each group that has an EMA replaced by it; the others as they are."""
    params = train_state.params
    for objective in objectives:
        for average in _averages(train_state.opt_state[objective.name]):
            params = replace_group(params, objective.group, average.ema)
    return params


def has_ema(train_state: TrainState) -> bool:
    """Whether any objective averages its parameters."""
    return bool(_averages(train_state.opt_state))


def _averages(opt_state: PyTree) -> list[ParamsEmaState]:
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ParamsEmaState))
    return [leaf for leaf in leaves if isinstance(leaf, ParamsEmaState)]


# --- groups, windows ----------------------------------------------------------------------------------------------------------


def select_group(params: PyTree, group: str | None) -> PyTree:
    """The parameters of a group; None: all."""
    return params if group is None else params[group]


def replace_group(params: PyTree, group: str | None, new: PyTree) -> PyTree:
    """`params` with those of a group replaced."""
    return new if group is None else {**params, group: new}


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
    opt_state = {o.name: optimizers[o.name].init(select_group(params, o.group)) for o in model.objectives}
    return TrainState(jnp.zeros([], jnp.int32), params, state, opt_state)


# --- batches ------------------------------------------------------------------------------------------------------------------


class Keys(NamedTuple):
    """The roots of all randomness of a run."""

    init: Key
    augment: Key
    noise: Key
    dropout: Key
    heldout: Key


def seed_keys(seed: int) -> Keys:
    """Raises InputError for a seed outside 0..2^32 - 1, of which JAX would silently use the last 32 bits only."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}; it must lie in 0..{2**32 - 1}")
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def example_keys(root: Key, step: int | Array, index: Int[Array, " batch"]) -> Key:
    """One key per example: fold_in(fold_in(root, step), global index)."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(root, step), index)


def make_batch(
    keys: Keys,
    step: int | Array,
    index: Int[Array, " batch"],
    images: UInt8[Array, "batch h w c"],
    labels: Labels | None,
    flip: bool,
) -> Batch:
    """A batch in [-1, 1] from stored images. `index` is each example's position in the global batch."""
    x = to_float(images)
    if flip:
        mirrored = jax.vmap(jax.random.bernoulli)(example_keys(keys.augment, step, index))
        x = jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    return Batch(x, labels, example_keys(keys.noise, step, index))


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
    # Convolution gradients inside a loop are tens of times slower on a CPU (benchmarks/conv_gradient_in_loop.py): unroll.
    unroll = accum if jax.default_backend() == "cpu" else 1
    (state, totals), _ = jax.lax.scan(one, (state, zeros), (keys, micro), unroll=unroll)
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
) -> tuple[TrainState, Metrics, Finite]:
    """One update of one objective: (train_state, metrics, finite)."""
    step, params, state, opt_state = train_state
    (state, metrics), grads = accumulated_gradients(objective, params, state, key, batch, step, axis_name, accum)
    group = select_group(params, objective.group)
    updates, new_opt = optimizer.update(grads, opt_state[objective.name], group)
    params = replace_group(params, objective.group, optax.apply_updates(group, updates))
    metrics = {**metrics, "grad_norm": optax.tree.norm(grads)}
    finite = Finite(
        {term: jnp.isfinite(value).all() for term, value in metrics.items()},
        jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)]),
    )
    return TrainState(step, params, state, {**opt_state, objective.name: new_opt}), metrics, finite


def _weighted(metrics: Metrics, weight: float) -> dict[str, tuple[Array, Array]]:
    return {term: (jnp.float32(weight) * value, jnp.float32(weight)) for term, value in metrics.items()}


def make_train_step(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    keys: Keys,
    *,
    flip: bool = False,
    accum: int = 1,
    axis_name: str | None = None,
) -> Callable[..., tuple[TrainState, StepOutput]]:
    """`step(train_state, images, labels, active, gated=False) -> (train_state, StepOutput)`; the last two are static.

    `active` names the objectives of this step. With `gated`, an objective of period `every` > 1 is wrapped in a `lax.cond` on
    the step; otherwise every named objective updates, and the caller names just those that are due.
    `images` are uint8 [batch, h, w, c]: the local share of the batch where `axis_name` is given, else the global batch.
    """

    def step(train_state: TrainState, images, labels, active: tuple[str, ...], gated: bool = False):
        now = train_state.step
        size = images.shape[0]
        device = jnp.int32(0) if axis_name is None else jax.lax.axis_index(axis_name)
        batch = make_batch(keys, now, device * size + jnp.arange(size), images, labels, flip)
        dropout = jax.random.fold_in(jax.random.fold_in(keys.dropout, now), device)
        output = StepOutput({}, {})
        for i, objective in enumerate(model.objectives):
            if objective.name not in active:
                continue

            def run(ts, objective=objective, i=i):
                key = jax.random.fold_in(dropout, i)
                ts, metrics, finite = update(objective, optimizers[objective.name], ts, key, batch, axis_name, accum)
                return ts, _weighted(metrics, 1.0), finite

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
    """`dispatch(train_state, images[k, ...], labels[k, ...], n, active) -> (train_state, StepOutput, failed)`: `n` <= k steps.

    Metrics are summed over the steps. `failed` is -1, or else the number of the first step with a non-finite loss or gradient:
    nothing is done after it, and the output's `finite` is of that step. `n` is dynamic: one compilation per active set.
    k = 1 runs the step as it is, without loop or `cond`.
    """

    def failed_step(train_state, output):
        flags = [leaf.all() for leaf in jax.tree.leaves(output.finite)]
        return jnp.where(jnp.stack(flags).all(), -1, train_state.step - 1) if flags else jnp.int32(-1)

    def dispatch(train_state, images, labels, n, active: tuple[str, ...]):
        if images.shape[0] == 1:
            train_state, output = step(train_state, *jax.tree.map(lambda a: a[0], (images, labels)), active)
            return train_state, output, failed_step(train_state, output)

        def body(carry):
            i, train_state, total, _ = carry
            example = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, keepdims=False), (images, labels))
            train_state, output = step(train_state, *example, active, gated=True)
            summed = jax.tree.map(jnp.add, total.metrics, output.metrics)
            return i + 1, train_state, StepOutput(summed, output.finite), failed_step(train_state, output)

        first = jax.tree.map(lambda a: a[0], (images, labels))
        shapes = jax.eval_shape(lambda ts: step(ts, *first, active, gated=True)[1], train_state)
        start = (jnp.int32(0), train_state, _neutral(shapes), jnp.int32(-1))
        _, train_state, output, failed = jax.lax.while_loop(lambda c: (c[0] < n) & (c[3] < 0), body, start)
        return train_state, output, failed

    return dispatch


def _neutral(shapes: PyTree) -> PyTree:
    """Sums of nothing, and flags that nothing was wrong."""
    return jax.tree.map(lambda a: jnp.full(a.shape, a.dtype == bool, a.dtype), shapes)


def _term_order(term: str) -> tuple[bool, bool, str]:
    return (term == "grad_norm", term != "loss", term)  # the loss first, what follows from it last


def describe_failure(output: StepOutput, params: PyTree, objectives: tuple[Objective, ...]) -> str:
    """Names the terms and the first parameter whose loss or gradient was not finite in a failed step (host values)."""
    for objective in objectives:
        finite = output.finite.get(objective.name)
        if finite is None:
            continue
        leaves = jax.tree_util.tree_leaves_with_path(select_group(params, objective.group))
        prefix = "params" if objective.group is None else f"params[{objective.group!r}]"
        paths = [prefix + jax.tree_util.keystr(path) for path, _ in leaves]
        bad_paths = [path for path, ok in zip(paths, finite.grads, strict=True) if not ok]
        bad_terms = sorted((term for term, ok in finite.terms.items() if not ok), key=_term_order)
        if bad_terms or bad_paths:
            terms = ", ".join(f"{objective.name}/{term}" for term in bad_terms) or "no loss term"
            more = f" and {len(bad_paths) - 1} more" if len(bad_paths) > 1 else ""
            where = f"; gradient of {bad_paths[0]}{more}" if bad_paths else ""
            return f"non-finite: {terms}{where}"
    return "non-finite value"
