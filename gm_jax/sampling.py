"""How a noise-based model samples: options that are checked before any work, guidance, a trajectory, and what it costs.

A model hands over how it makes a denoiser of its variables; which sampler, grid and guidance then act on it, `options` say.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.core import Images, Key, Labels, Variables, streams
from gm_jax.diffusion import plans, samplers
from gm_jax.diffusion.guidance import Inside, noise_interval
from gm_jax.diffusion.paths import Denoiser, Path
from gm_jax.errors import InputError
from gm_jax.settings import Count, NonNegative, convert


class Guidance(NamedTuple):
    """What the options `guidance_scale` and `guidance_interval` mean to a model."""

    none: float = 1.0  # the scale that is no guidance
    default: float = 1.0  # the scale where none is given
    passes: int = 2  # through networks, where guidance acts, in place of one


class Guide(NamedTuple):
    """Those options, checked."""

    scale: float
    inside: Inside | None  # of `diffusion.guidance`; None: everywhere


# (variables, keys, labels, guide) -> the denoiser to sample with
DenoiserOf = Callable[[Variables, Key, Labels | None, Guide], Denoiser]
# (variables, keys, labels) -> a sampler that needs more of the model than its denoiser
OfModel = Callable[[Variables, Key, Labels | None], Callable[[Path, Denoiser], samplers.Sampler]]


class Sampling(NamedTuple):
    """The functions of the same names of `core.Model`."""

    sample: Callable[..., Images]
    trajectory: Callable[..., Array]
    nfe: Callable[..., int]


class Choice(NamedTuple):
    """Options of sampling, checked."""

    plan: plans.Plan
    guide: Guide
    nfe: Callable[[], int]


def sampling_of(
    name: str,
    image_shape: tuple[int, ...],
    path: Path,
    denoiser_of: DenoiserOf,
    defaults: Mapping[str, Any],
    *,
    choices: Mapping[str, Callable[..., samplers.Sampler]] = plans.SAMPLERS,
    ode_spacing: str = "karras",
    guidance: Guidance | None = None,
    of_model: Mapping[str, OfModel] = {},
) -> Sampling:
    """`sample`, `trajectory` and `nfe` of the model called `name`.

    Args:
      denoiser_of: see DenoiserOf; it sees to labels, too.
      defaults: of `sampler`, `steps` and `spacing`; ode_spacing: that of plans.ODE_SOLVERS.
      guidance: None for a model that cannot be guided.
      of_model: by name, in place of those of `choices`, whose signatures say which options there are.

    The options: sampler, steps, spacing, times (see `plans.plan`), those of the sampler, guidance_scale and
    guidance_interval, two noise levels sigma / alpha outside which there is no guidance. Raises InputError for others, and for
    what does not fit.
    """
    guidance_or_none = guidance or Guidance()

    def choose(guidance_scale: Any = None, guidance_interval: Any = None, **options: Any) -> Choice:
        scale = guidance_or_none.default if guidance_scale is None else convert(guidance_scale, float, "guidance_scale")
        limits = convert(guidance_interval or (), tuple[NonNegative, ...], "guidance_interval")
        guided = scale != guidance_or_none.none
        if guidance is None and (guided or limits):
            raise InputError(f"guidance_scale={scale} needs a conditional model that was trained with label_dropout")
        if len(limits) not in (0, 2) or (limits and not guided):
            raise InputError("guidance_interval is two noise levels, low and high, and needs a guidance_scale that guides")
        sampler = options.get("sampler") or defaults["sampler"]
        spacing = ode_spacing if sampler in plans.ODE_SOLVERS else defaults["spacing"]
        given = {key: value for key, value in options.items() if value is not None}
        given = {**defaults, "spacing": spacing, **typed(choices.get(sampler), given)}
        plan, inside = plans.plan(path, dict(choices), **given), noise_interval(path, *limits) if limits else None
        return Choice(plan, Guide(scale, inside), partial(passes, path, plan, guidance_or_none.passes if guided else 1, inside))

    def checked(**options: Any) -> Choice:
        try:
            return choose(**options)
        except (TypeError, ValueError) as error:
            raise InputError(f"sampling {name}: {error}") from None

    def trajectory(variables: Variables, keys: Key, labels: Labels | None = None, *, frames: int | None, **options: Any):
        (make, times, _), guide, _ = checked(**options)
        start_keys, step_keys = streams(keys, "start", "steps")
        own = of_model.get(options.get("sampler") or defaults["sampler"])
        make = make if own is None else own(variables, keys, labels)
        sampler = make(path, denoiser_of(variables, keys, labels, guide))
        x = samplers.initial_noise(path, start_keys, image_shape, times[0])
        return samplers.simulate(step_keys, sampler, x, times, frames)

    def sample(variables: Variables, keys: Key, labels: Labels | None = None, **options: Any):
        checked(**options)  # which refuses what `trajectory` alone takes
        return trajectory(variables, keys, labels, frames=None, **options)

    return Sampling(sample, trajectory, lambda **options: checked(**options).nfe())


def typed(sampler: Callable[..., samplers.Sampler] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of sampling in their proper types, as the sampler's signature has them. Raises InputError for others."""
    function = sampler.func if isinstance(sampler, partial) else sampler
    hints = {"steps": Count, "spacing": str, "sampler": str} | (
        get_type_hints(function, include_extras=True) if function else {}
    )
    return {name: convert(value, hints.get(name, Any), name) for name, value in options.items()}


def passes(path: Path, plan: plans.Plan, guided: int, inside: Inside | None) -> int:
    """Passes through networks per sample: one wherever the denoiser is asked, and `guided` where guidance acts."""
    if inside is None:
        return guided * plan.nfe
    return plan.nfe + (guided - 1) * int(np.sum(inside(times_asked(path, plan))))


def times_asked(path: Path, plan: plans.Plan) -> Float[np.ndarray, " nfe"]:
    """The times at which a plan asks the denoiser, in no particular order."""
    asked: list[float] = []

    def denoiser(x_t, t):
        jax.debug.callback(lambda t: asked.append(float(t)), t)
        return x_t

    keys, x = jax.random.split(jax.random.key(0), 1), jnp.zeros((1, 1))
    samplers.simulate(keys, plan.sampler(path, denoiser), x, plan.times).block_until_ready()
    jax.effects_barrier()
    return np.array(asked, np.float32)
