"""Optimizers from settings: clipping, Adam or momentum, weight decay, schedule, and the average of the parameters."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from gm_jax.core import Model, Objective, PyTree
from gm_jax.errors import InputError, choose

# (settings, b2 as a number or a schedule) -> transformation
OPTIMIZERS: dict[str, Callable[[Mapping[str, Any], Any], optax.GradientTransformation]] = {
    "adam": lambda s, b2: adam(s["b1"], b2, s["eps"]),
    "rmsprop": lambda s, b2: optax.scale_by_rms(s["b2"], s["eps"]),
    "sgd": lambda s, b2: optax.trace(s["b1"]),  # b1 is the momentum
}

# schedule(value at the start, at the end, number of updates) -> optax schedule, after the warm-up
SCHEDULES: dict[str, Callable[[float, float, int], optax.Schedule]] = {
    "constant": lambda first, last, n: optax.constant_schedule(first),
    "linear": lambda first, last, n: optax.linear_schedule(first, last, n),
    "cosine": lambda first, last, n: lambda count: last + (first - last) * optax.cosine_decay_schedule(1.0, n)(count),
    "exponential": lambda first, last, n: optax.exponential_decay(first, n, math.exp(-1), end_value=last),  # again and again
}


def adam(b1: float, b2: float | optax.Schedule, eps: float) -> optax.GradientTransformation:
    """Adam (Kingma & Ba 2015), whose b2 may follow the updates."""
    if not callable(b2):
        return optax.scale_by_adam(b1, b2, eps)
    return optax.inject_hyperparams(optax.scale_by_adam)(b1=b1, b2=b2, eps=eps)


class ParamsEmaState(NamedTuple):
    """State of `params_ema`."""

    count: Int[Array, ""]
    ema: PyTree


def params_ema(decay: float, warmup: bool = True, ramp: float = 0.0) -> optax.GradientTransformation:
    """Averages the parameters that the chain before it produces: ema <- d * ema + (1 - d) * (params + updates).

    Put it last in `optax.chain`; updates pass through unchanged. With `warmup`, d = min(decay, (1 + n) / (10 + n)) at the n-th
    update (as `tf.train.ExponentialMovingAverage` with `num_updates`), so that short runs soon forget their initial weights.
    With `ramp` instead, the half-life is at most so many times the updates until then (0.05 in the code of Karras et al. 2022).
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
        n, d = state.count, decay
        if ramp:
            d = jnp.minimum(decay, 0.5 ** (1 / (ramp * jnp.maximum(n, 1e-8))))
        elif warmup:
            d = jnp.minimum(decay, (1 + n) / (10 + n))
        ema = jax.tree.map(lambda e, p, u: (d * e + (1 - d) * (p + u)).astype(e.dtype), state.ema, params, updates)
        return updates, ParamsEmaState(n + 1, ema)

    return optax.GradientTransformation(init, update)


def weight_clip(bound: float) -> optax.GradientTransformation:
    """Keeps the parameters that the chain before it produces within [-bound, bound] (Arjovsky et al. 2017, algorithm 1).

    It comes after all that alters updates, and before `params_ema`.
    """

    def update(updates, state, params=None):
        return jax.tree.map(lambda u, p: jnp.clip(p + u, -bound, bound) - p, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class SkipLargeState(NamedTuple):
    """State of `skip_large`."""

    skipped: Int[Array, ""]  # so many updates until now
    inner: PyTree


def skip_large(inner: optax.GradientTransformation, norm: float) -> optax.GradientTransformation:
    """Makes no update where the gradients' global norm is `norm` or more, or not a number (gradient skipping, Child 2021).

    Then nothing of `inner` changes: no moments, no step of a schedule, no average. Put it around the whole chain.
    """

    def init(params):
        return SkipLargeState(jnp.zeros([], jnp.int32), inner.init(params))

    def update(updates, state, params=None):
        def skip(updates, inner_state, params):
            return jax.tree.map(jnp.zeros_like, updates), inner_state

        small = optax.tree.norm(updates) < norm
        updates, inner_state = jax.lax.cond(small, inner.update, skip, updates, state.inner, params)
        return updates, SkipLargeState(state.skipped + ~small, inner_state)

    return optax.GradientTransformation(init, update)


def averages(opt_state: PyTree) -> list[ParamsEmaState]:
    """The states of `params_ema` in the state of an optimizer."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, ParamsEmaState))
    return [leaf for leaf in leaves if isinstance(leaf, ParamsEmaState)]


def build_optimizer(settings: Mapping[str, Any], objective: Objective) -> optax.GradientTransformation:
    """Clipping, the optimizer, decoupled weight decay, the schedule, the EMA and skipping, as far as `settings` ask for them.

    `horizon` and `warmup_steps` are steps of the run, counted from the start of the objective's window: an objective that
    updates at every fifth step makes a fifth as many updates in them. Without a horizon the schedule runs over that window,
    never over the length of the run: so a rerun may raise the number of steps without altering the steps already made.
    """
    window = 0 if objective.stop is None else objective.stop - objective.start
    horizon = (settings["horizon"] or window) // objective.every
    make_schedule = choose(SCHEDULES, settings["schedule"], "schedule")
    if settings["schedule"] != "constant" and not horizon:
        raise InputError(
            f"schedule {settings['schedule']!r} of {objective.name!r} needs a length; set optimizer.horizon (in steps)"
        )
    warmup, rate = math.ceil(settings["warmup_steps"] / objective.every), settings["learning_rate"]
    schedule = make_schedule(rate, settings["end_rate"], max(horizon - warmup, 1))
    b2 = make_schedule(settings["b2"], settings["end_b2"], max(horizon, 1)) if settings["end_b2"] else settings["b2"]
    if warmup:  # the first update already moves: rate / warmup, 2 rate / warmup, ...
        schedule = optax.join_schedules([optax.linear_schedule(rate / warmup, rate, max(warmup - 1, 1)), schedule], [warmup])
    parts = [
        optax.clip_by_global_norm(settings["clip_norm"]) if settings["clip_norm"] else None,
        choose(OPTIMIZERS, settings["name"], "optimizer")(settings, b2),
        optax.add_decayed_weights(settings["weight_decay"]) if settings["weight_decay"] else None,
        optax.scale_by_learning_rate(schedule),
        weight_clip(settings["weight_clip"]) if settings["weight_clip"] else None,
        params_ema(*(settings[f"ema_{name}"] for name in ("decay", "warmup", "ramp"))) if settings["ema_decay"] else None,
    ]
    chain = optax.chain(*[part for part in parts if part is not None])
    return skip_large(chain, settings["skip_norm"]) if settings["skip_norm"] else chain


def build_optimizers(config: Mapping[str, Any], model: Model) -> dict[str, optax.GradientTransformation]:
    """One optimizer for each objective that has its own. A dict under an objective's name in `config["optimizer"]` overrides
    the common settings.

    Raises InputError for settings that name no such objective, and where two optimizers would average the same parameters, of
    which evaluation could only see one.
    """
    common = {key: value for key, value in config["optimizer"].items() if not isinstance(value, Mapping)}
    own = {key: value for key, value in config["optimizer"].items() if isinstance(value, Mapping)}
    objectives = [objective for objective in model.objectives if objective.optimizer is None]
    names = [objective.name for objective in objectives]
    for key in own:
        if key not in names:
            raise InputError(f"optimizer.{key} names no objective of this model; its objectives are {', '.join(names)}")
        for field in own[key]:
            if field not in common:
                raise InputError(f"unknown field optimizer.{key}.{field}; known: {', '.join(common)}")
    settings = {o.name: {**common, **own.get(o.name, {})} for o in objectives}
    _check_averages([o for o in objectives if settings[o.name]["ema_decay"]])
    return {o.name: build_optimizer(settings[o.name], o) for o in objectives}


def _check_averages(objectives: list[Objective]) -> None:
    for i, one in enumerate(objectives):
        for other in objectives[:i]:
            if _overlap(one.group, other.group):
                raise InputError(
                    f"the objectives {other.name!r} and {one.name!r} would both average the parameters of "
                    f"{one.group or other.group or 'the model'}; set optimizer.{one.name}.ema_decay=0 for one of them"
                )


def _overlap(one: str | None, other: str | None) -> bool:
    """Have two groups parameters in common?"""
    return not one or not other or f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")
