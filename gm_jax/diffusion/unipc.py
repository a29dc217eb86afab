"""UniPC (Zhao et al. 2023, https://arxiv.org/abs/2302.04867): a predictor like that of DPM-Solver++, and a corrector that costs
nothing, as it uses the evaluation that the next step makes anyway.

With lambda = log(alpha / sigma), h the length of a step in it and D_m = x0(lambda + r_m h) - x0(lambda) for earlier evaluations
(r_m < 0) and, to correct, for the one at the end (r = 1), in the prediction of x0 (appendix E.5):

    x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) x0 - alpha_s sum_m a_m D_m / r_m,    sum_m r_m^(k-1) a_m = k! phi_k,

for k = 1, 2, ... with phi_1 = (1 - e^-h) / h - 1 and phi_{k+1} = -phi_k / h - 1 / (k+1)!: exact where x0 is a polynomial in
lambda. With a single D, a = B(h) / 2: there, alone, the choice of B matters.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.diffusion.dpm_solver import History, empty, first_order, half_log_snr, remember
from gm_jax.diffusion.paths import Denoiser, Images, Path
from gm_jax.diffusion.samplers import Sampler

VARIANTS = {"bh1": lambda h: -h, "bh2": lambda h: jnp.expm1(-h)}  # B(h)


class Memory(NamedTuple):
    """What is kept between steps."""

    history: History  # of the evaluations
    x: Images  # where the last step began, corrected
    t: Float[Array, ""]  # and when
    order: Array  # of that step; 0: there was none
    left: Array  # steps to the end


def unipc(path: Path, denoiser: Denoiser, order: int = 2, variant: str = "bh2") -> Sampler:
    """UniPC of an order from 1 to 3, with B(h) = -h ("bh1") or e^-h - 1 ("bh2").

    The first steps, and the last ones, are of lower order: of no higher one than there are evaluations, and steps left. Raises
    ValueError for another order or variant.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order is {order}; unipc has 1, 2 and 3")
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known: {', '.join(VARIANTS)}")

    def start(x, times):
        history = empty(order)(x, times)[1]
        return x, Memory(history, x, times[0], jnp.int32(0), jnp.int32(len(times) - 1))

    def move(x, history, t, s, p, end=None):
        """From t to s at order p; with x0 at the end, `end`, corrected."""
        h = half_log_snr(path, s) - half_log_snr(path, t)
        kept, new = first_order(path, t, s)
        r = (history.half_log_snr - history.half_log_snr[0])[1:] / h
        differences = history.x0[1:] - history.x0[0]
        if end is not None:
            r, differences = jnp.append(r, 1.0), jnp.concatenate([differences, (end - history.x0[0])[None]])
        at_order = jnp.stack([weights(r, h, n, end is not None, VARIANTS[variant]) for n in range(1, order + 1)])
        chosen = jnp.where(jnp.isfinite(h), at_order[jnp.maximum(p, 1) - 1], 0.0)
        return kept * x + new * history.x0[0] - path.alpha(s) * jnp.tensordot(chosen, differences, 1)

    def step(keys, x, memory, t, s):
        x0 = denoiser(x, t)
        corrected = move(memory.x, memory.history, memory.t, t, memory.order, end=x0)
        x = jnp.where(memory.order > 0, corrected, x)
        history = remember(memory.history, x0, half_log_snr(path, t))
        p = jnp.minimum(jnp.minimum(order, memory.left), jnp.maximum(history.count, 1))
        return move(x, history, t, s, p), Memory(history, x, t, p, memory.left - 1)

    return Sampler(step, start=start)


def weights(r: Float[Array, " m"], h: Float[Array, ""], order: int, correct: bool, b: Callable[[Array], Array]) -> Array:
    """a_m / r_m, of which those beyond the order are 0. `correct`: the last of r is the end of the step."""
    used = [*range(order - 1), *([len(r) - 1] if correct else [])]
    if not used:
        return jnp.zeros_like(r)
    at, phi, phis = r[jnp.array(used)], -jnp.expm1(-h) / h - 1, []
    for k in range(1, len(used) + 1):
        phis.append(math.factorial(k) * phi)
        phi = -phi / h - 1 / math.factorial(k + 1)
    powers = at ** jnp.arange(len(used))[:, None]
    a = jnp.linalg.solve(powers, jnp.stack(phis)) if len(used) > 1 else b(h)[None] / 2
    return jnp.zeros_like(r).at[jnp.array(used)].set(a / at)
