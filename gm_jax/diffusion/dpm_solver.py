"""DPM-Solver++ (Lu et al. 2022, https://arxiv.org/abs/2211.01095): exponential integrators of the ODE and of the SDE in the
half log signal-to-noise ratio lambda = log(alpha / sigma), in which x0 = E[x0 | x] is nearly a polynomial:

    x_s = sigma_s / sigma_t x_t + sigma_s int_{lambda_t}^{lambda_s} e^lambda x0(lambda) dlambda.              (proposition 4.1)

A step that begins or ends where lambda is infinite is of order 1, DDIM's: from pure noise, and the last one, which gives x0.
Multistep solvers keep the last estimates of x0; their first steps are of lower order.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gm_jax.diffusion.paths import Denoiser, Images, Path, Time, log_snr
from gm_jax.diffusion.samplers import Sampler, memoryless, normal


class History(NamedTuple):
    """What a multistep solver remembers: its last evaluations, the latest first, and how many of them there are."""

    x0: Float[Array, "kept n *shape"]
    half_log_snr: Float[Array, " kept"]
    count: Int[Array, ""]


def empty(kept: int) -> Callable[[Images, Array], tuple[Images, History]]:
    """The start of a solver that remembers so many evaluations."""

    def start(x, times):
        return x, History(jnp.zeros((kept, *x.shape), x.dtype), jnp.zeros(kept, times.dtype), jnp.int32(0))

    return start


def remember(memory: History, x0: Images, at: Float[Array, ""]) -> History:
    """The evaluation at this lambda comes in, the oldest goes. One in pure noise, at no finite lambda, does not count."""
    kept = len(memory.half_log_snr)
    count = jnp.where(jnp.isfinite(at), jnp.minimum(memory.count + 1, kept), 0)
    at = jnp.append(at, memory.half_log_snr)[:kept].astype(memory.half_log_snr.dtype)
    return History(jnp.concatenate([x0[None], memory.x0])[:kept], at, count)


def half_log_snr(path: Path, t: Time) -> Time:
    """lambda = log(alpha / sigma)."""
    return log_snr(path, t) / 2


def first_order(path: Path, t: Time, s: Time) -> tuple[Array, Array]:
    """x_s = a x_t + b x0 where x0 does not change on the way: (a, b)."""
    kept = path.sigma(s) / path.sigma(t)
    return kept, path.alpha(s) - path.alpha(t) * kept  # b is alpha_s (1 - e^-h), without e^-h, which may be 0 or 1


def slope(memory: History, x0: Images, at: Float[Array, ""], h: Float[Array, ""]) -> Images:
    """h times the derivative of x0 by lambda, from the last evaluation; 0 where there is none or the step has no length."""
    known = (memory.count > 0) & jnp.isfinite(h)
    return jnp.where(known, h / (at - memory.half_log_snr[0]), 0.0) * (x0 - memory.x0[0])


def dpmpp_2m(path: Path, denoiser: Denoiser) -> Sampler:
    """DPM-Solver++(2M), of second order with one evaluation a step (algorithm 2)."""

    def step(keys, x, memory, t, s):
        x0, at = denoiser(x, t), half_log_snr(path, t)
        kept, new = first_order(path, t, s)
        change = slope(memory, x0, at, half_log_snr(path, s) - at)
        return kept * x + new * (x0 + change / 2), remember(memory, x0, at)

    return Sampler(step, start=empty(1))


def dpmpp_3m(path: Path, denoiser: Denoiser, authors: bool = False) -> Sampler:
    """DPM-Solver++ multistep of third order with one evaluation a step.

    authors: the very formula of the authors' code, which takes half of the second derivative, and so is of second order.
    """

    def step(keys, x, memory, t, s):
        x0, at = denoiser(x, t), half_log_snr(path, t)
        kept, new = first_order(path, t, s)
        h = half_log_snr(path, s) - at
        change = slope(memory, x0, at, h)
        second_order = kept * x + new * (x0 + change / 2)

        # derivatives of the parabola through the last three evaluations, times h and h^2
        last = at - memory.half_log_snr[0]
        before = memory.half_log_snr[0] - memory.half_log_snr[1]
        earlier = h / before * (memory.x0[0] - memory.x0[1])
        bent = h / (last + before) * (change - earlier)
        first, second = change + last / h * bent, bent if authors else 2 * bent
        phi = jnp.expm1(-h) / h + 1
        third_order = kept * x + new * x0 + path.alpha(s) * (phi * first - (phi / h - 0.5) * second)
        enough = (memory.count > 1) & jnp.isfinite(h)
        return jnp.where(enough, third_order, second_order), remember(memory, x0, at)

    return Sampler(step, start=empty(2))


def dpmpp_2s(path: Path, denoiser: Denoiser) -> Sampler:
    """DPM-Solver++(2S), of second order by an evaluation half way in lambda (algorithm 1 with r = 1/2)."""
    with jax.ensure_compile_time_eval():
        from_pure_noise = bool(path.alpha(jnp.asarray(path.t_max)) == 0)

    def step(keys, x, t, s):
        kept, new = first_order(path, t, s)
        x0, start, end = denoiser(x, t), half_log_snr(path, t), half_log_snr(path, s)

        def half_way():
            middle = path.t_of_log_snr(start + end)
            a, b = first_order(path, t, middle)
            return denoiser(a * x + b * x0, middle)

        return kept * x + new * jax.lax.cond(jnp.isfinite(end - start), half_way, lambda: x0)

    return memoryless(step, nfe=lambda steps: max(steps, 2 * steps - 1 - from_pure_noise))


def dpmpp_2m_sde(path: Path, denoiser: Denoiser) -> Sampler:
    """SDE-DPM-Solver++(2M): the same for the reverse SDE, with one evaluation a step (appendix A, "midpoint")."""

    def step(keys, x, memory, t, s):
        x0, at = denoiser(x, t), half_log_snr(path, t)
        h = half_log_snr(path, s) - at
        kept, lost = jnp.exp(-h) * path.sigma(s) / path.sigma(t), -jnp.expm1(-2 * h)
        new = x0 + slope(memory, x0, at, h) / 2
        noise = path.sigma(s) * jnp.sqrt(lost) * normal(keys, x.shape[1:])
        return kept * x + path.alpha(s) * lost * new + noise, remember(memory, x0, at)

    return Sampler(step, start=empty(1))
