"""Samplers: they know a path and a denoiser (x_t, t) -> E[x0 | x_t], never a network, and step from noise to data.

A sampler is a pure step on (x, memory); `simulate` runs any of them over any grid of times in one `lax.scan`. x stands apart
from what a solver remembers, so that any sampler can be wrapped by one that looks at x, or alters it, after each step.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gm_jax.diffusion.paths import Denoiser, Images, Path, Time, add_noise, like, posterior
from gm_jax.diffusion.predictions import to_eps, velocity

Times = Float[Array, " steps+1"]  # decreasing, to 0
ShareOf = Callable[[Images, Time], Images]  # (x_t, t) -> the share of beta in the logarithm of the reverse step's variance


class Sampler(NamedTuple):
    """How to go from x_t to x_s, s < t. `memory` is what a solver keeps between steps; most keep nothing, ()."""

    step: Callable[..., tuple[Images, Any]]  # (keys [n], x, memory, t, s) -> x, memory; t and s are scalars
    start: Callable[[Images, Times], tuple[Images, Any]] = lambda x, times: (x, ())  # before the first step; sees the grid
    nfe: Callable[[int], int] = lambda steps: steps  # denoiser evaluations in so many steps


def memoryless(step: Callable[..., Images], **others: Any) -> Sampler:
    """The sampler of a step (keys, x, t, s) -> x."""
    return Sampler(lambda keys, x, memory, t, s: (step(keys, x, t, s), memory), **others)


def ancestral(path: Path, denoiser: Denoiser, variance: str = "fixed_large") -> Sampler:
    """Draws x_s ~ p(x_s | x_t), the reverse chain of Ho et al. 2020 (eq. 7 with the denoiser's x0; algorithm 2).

    `variance`: "fixed_large" is that of q(x_t | x_s) (beta_t), "fixed_small" that of q(x_s | x_t, x0) (beta-tilde_t). No
    noise is added in the step to t = 0.
    """
    choose = reverse_variance(variance)
    return _reverse_chain(path, denoiser, lambda q, x, t: choose(q))


def learned_ancestral(path: Path, denoiser: Denoiser, share_of: ShareOf) -> Sampler:
    """The same with a learned variance: `share_of` tells its place between the two (Nichol & Dhariwal 2021, eq. 15)."""
    return _reverse_chain(path, denoiser, lambda q, x, t: between(q.variance, q.transition, share_of(x, t)))


def between(small: Array, large: Array, share: Images) -> Images:
    """small^(1 - share) large^share: `share` in [0, 1], though nothing keeps a network from answering less or more."""
    return jnp.exp(like(jnp.log(small), share) * (1 - share) + like(jnp.log(large), share) * share)


def _reverse_chain(path: Path, denoiser: Denoiser, variance_of: Callable) -> Sampler:
    def step(keys, x, t, s):
        q = posterior(path, t, s)
        std = jnp.where(s > 0, jnp.sqrt(variance_of(q, x, t)), 0.0)
        return q.of_x0 * denoiser(x, t) + q.of_x_t * x + std * normal(keys, x.shape[1:])

    return memoryless(step)


def reverse_variance(name: str) -> Callable:
    """Which variance of a `Posterior` the reverse step uses: "fixed_large" or "fixed_small" (Ho et al. 2020, section 3.2)."""
    choices = {"fixed_large": lambda q: q.transition, "fixed_small": lambda q: q.variance}
    if name not in choices:
        raise ValueError(f"unknown variance {name!r}; known: {', '.join(choices)}")
    return choices[name]


def ddim(path: Path, denoiser: Denoiser, eta: float = 0.0) -> Sampler:
    """Song et al. 2020 (DDIM), eq. 12 and 16. `eta` in [0, 1]: 0 is deterministic, 1 equals `ancestral` with "fixed_small"."""
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; it must lie between 0 and 1")

    def step(keys, x, t, s):
        x0 = denoiser(x, t)
        eps = to_eps(path, x0, x, t)
        if eta == 0:
            return add_noise(path, x0, eps, s)
        variance = eta**2 * posterior(path, t, s).variance
        kept = jnp.sqrt(path.sigma(s) ** 2 - variance)
        return path.alpha(s) * x0 + kept * eps + jnp.sqrt(variance) * normal(keys, x.shape[1:])

    return memoryless(step)


def euler(path: Path, denoiser: Denoiser) -> Sampler:
    """First-order steps along the probability-flow ODE; the last one gives x0. On `flow_path` and `edm_path` all of them are
    those of deterministic DDIM."""

    def step(keys, x, t, s):
        x0 = denoiser(x, t)
        return jnp.where(s > 0, x + (s - t) * velocity(path, x0, x, t), x0)

    return memoryless(step)


def heun(
    path: Path, denoiser: Denoiser, s_churn: float = 0.0, s_min: float = 0.0, s_max: float = math.inf, s_noise: float = 1.0
) -> Sampler:
    """Second-order steps along the probability-flow ODE (Karras et al. 2022, algorithm 1); the last one gives x0.

    With `s_churn` (algorithm 2) noise is added before each step at levels sigma / alpha from s_min to s_max: as much as raises
    the level by s_churn / steps of it, at most by sqrt(2) - 1, and `s_noise` times its standard deviation.
    """
    if min(s_churn, s_min, s_noise) < 0 or s_max < s_min:
        raise ValueError(f"s_churn={s_churn:g}, s_min={s_min:g} and s_noise={s_noise:g} are at least 0, s_max at least s_min")

    def step(keys, x, steps, t, s):
        if s_churn:
            raised = jnp.minimum(s_churn / steps, math.sqrt(2) - 1)
            x, t = churn(path, keys, x, t, raised, s_min, s_max, s_noise)
        x0 = denoiser(x, t)

        def correct():
            slope = velocity(path, x0, x, t)
            predicted = x + (s - t) * slope
            slope_at_s = velocity(path, denoiser(predicted, s), predicted, s)
            return x + (s - t) * (slope + slope_at_s) / 2

        return jax.lax.cond(s > 0, correct, lambda: x0), steps

    return Sampler(step, start=lambda x, times: (x, len(times) - 1), nfe=lambda steps: 2 * steps - 1)


def churn(path: Path, keys: Array, x: Images, t: Array, raised: Array, low: float, high: float, noise: float) -> tuple:
    """x with noise added, and the time at which it then is: sigma / alpha, if in [low, high], is larger by 1 + raised."""
    level = path.sigma(t) / path.alpha(t)
    inside = (level >= low) & (level <= high) & jnp.isfinite(level)
    later = jnp.where(inside, path.t_of_log_snr(-2 * jnp.log(level * (1 + raised))), t)
    added = jnp.where(inside, (path.sigma(later) / path.alpha(later)) ** 2 - level**2, 0.0)
    kept = jnp.where(inside, path.alpha(later) / path.alpha(t), 1.0)
    z = noise * normal(keys, x.shape[1:])
    return kept * x + path.alpha(later) * jnp.sqrt(jnp.maximum(added, 0.0)) * z, later


def clip_x0(denoiser: Denoiser) -> Denoiser:
    """Clips the estimate of x0 to the range of images, [-1, 1], at every step (as in the code of Ho et al. 2020)."""
    return lambda x_t, t: jnp.clip(denoiser(x_t, t), -1.0, 1.0)


def normal(keys: Array, shape: tuple[int, ...]) -> Float[Array, "n *shape"]:
    """Standard normal noise, one key per sample: sample i does not depend on how many others there are."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def initial_noise(
    path: Path, keys: Array, shape: tuple[int, ...], t: Float[Array, ""] | None = None
) -> Float[Array, "n *shape"]:
    """x at the first time, where next to nothing of x0 is left: sigma(t) times standard normal noise; None is t_max."""
    return path.sigma(jnp.asarray(path.t_max if t is None else t)) * normal(keys, shape)


def simulate(keys: Array, sampler: Sampler, x_init: Images, times: Times, frames: int | None = None) -> Array:
    """Runs `sampler` from `x_init` at times[0] to times[-1], in one `lax.scan`.

    Args:
      keys: [n] one key per sample. Step k of sample i draws from fold_in(keys[i], k).
      x_init: [n, ...] at times[0].
      times: decreasing, as of `grids.time_grid`.
      frames: keep so many snapshots (at most one a step), evenly spaced over the steps, the last being the result.

    Returns:
      [n, ...] at times[-1]; with `frames` [min(frames, steps), n, ...]. Raises ValueError for less than one frame.
    """
    steps = len(times) - 1
    if frames is not None:
        if frames < 1:
            raise ValueError(f"{frames} frames make no trajectory; take at least 1")
        frames = min(frames, steps)

    def body(carry, step):
        x, memory, album = carry
        k, t, s = step
        x, memory = sampler.step(jax.vmap(jax.random.fold_in, (0, None))(keys, k), x, memory, t, s)
        if frames is not None:  # the last step of each stretch is the one that stays
            album = album.at[k * frames // steps].set(x)
        return (x, memory, album), None

    album = None if frames is None else jnp.zeros((frames, *x_init.shape), x_init.dtype)
    (x, _, album), _ = jax.lax.scan(body, (*sampler.start(x_init, times), album), (jnp.arange(steps), times[:-1], times[1:]))
    return x if frames is None else album
