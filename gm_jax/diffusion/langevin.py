"""Annealed Langevin dynamics (Song & Ermon 2019, algorithm 1): at each noise level, largest first, a few steps

    x <- x + alpha_i s(x, sigma_i) + sqrt(2 alpha_i) z,    alpha_i = epsilon (sigma_i / sigma_min)^2,    z ~ N(0, I),

with s the score of x_t. This is the step of the authors' code (ermongroup/ncsn and ncsnv2), whose epsilons are the published
ones. The algorithm box of 2019 writes alpha_i / 2 and sqrt(alpha_i): its epsilon is twice as large for the same step.
`epsilon` has the unit of a squared pixel value: in [-1, 1] it is four times what it is in [0, 1].
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr
from jaxtyping import Float

from gm_jax.diffusion.paths import Denoiser, Path
from gm_jax.diffusion.predictions import to_eps
from gm_jax.diffusion.samplers import Sampler, memoryless, normal

# standard normal noise and sigma_max -> where the chain starts
STARTS = {
    "noise": lambda z, sigma_max: sigma_max * z,
    "uniform": lambda z, sigma_max: 2 * ndtr(z) - 1,  # a normal variable's own distribution function makes it uniform
}


def annealed_langevin(
    path: Path, denoiser: Denoiser, epsilon: float, inner_steps: int = 100, start: str = "noise", denoise: bool = False
) -> Sampler:
    """`inner_steps` Langevin steps at every time of the grid but the last one, whose level is not visited.

    Args:
      path: sigma(t_min) is its smallest level, sigma_min. Exact for alpha = 1; else a corrector without predictor.
      epsilon: step size at the smallest level, see above. Raises ValueError unless 0 < epsilon < 2 sigma_min^2, beyond which
        the steps diverge wherever data have no variance.
      start: "noise" begins from the noise at t_max, "uniform" (Song & Ermon 2019) from uniform pixels in [-1, 1]; either way
        `Sampler.start` is given the noise.
      denoise: end with x + sigma^2 s(x), which is E[x0 | x_t] (Jolicoeur-Martineau et al. 2020; Song & Ermon 2020, appendix).
    """
    with jax.ensure_compile_time_eval():
        sigma_min, sigma_max = (float(path.sigma(jnp.asarray(t))) for t in (path.t_min, path.t_max))
    share = epsilon / sigma_min**2  # alpha_i / sigma_i^2: the same at every level
    if not 0 < share < 2:
        raise ValueError(f"epsilon is {epsilon:g}; it must lie between 0 and 2 sigma_min^2 = {2 * sigma_min**2:g}")
    if inner_steps < 1:
        raise ValueError(f"inner_steps is {inner_steps}; take at least 1")
    if start not in STARTS:
        raise ValueError(f"unknown start {start!r}; known: {', '.join(STARTS)}")

    def step(keys, x, t, s):
        sigma = path.sigma(t)
        alpha = share * sigma**2

        def inner(x, k):
            score = -to_eps(path, denoiser(x, t), x, t) / sigma
            z = normal(jax.vmap(jax.random.fold_in, (0, None))(keys, k), x.shape[1:])
            return x + alpha * score + jnp.sqrt(2 * alpha) * z, None

        x, _ = jax.lax.scan(inner, x, jnp.arange(inner_steps))
        return jax.lax.cond(s > 0, lambda: x, lambda: denoiser(x, t)) if denoise else x

    return memoryless(
        step,
        start=lambda x, times: (STARTS[start](x / sigma_max, sigma_max), ()),
        nfe=lambda steps: steps * inner_steps + denoise,
    )


def consistent_epsilon(sigma_min: float, ratio: float, inner_steps: int) -> float:
    """The step size that best keeps noise at the level it should have (Song & Ermon 2020, section 4.3, technique 4).

    With data of no variance, a chain that enters level i with the variance of level i - 1 leaves it with `variance_ratio`
    times sigma_i^2; this epsilon brings that nearest to 1.

    Args:
      sigma_min: the smallest level.
      ratio: of one level to the next smaller one, above 1.
      inner_steps: Langevin steps a level.
    """
    shares = np.geomspace(1e-5, 1.0, 20_001)
    return float(sigma_min**2 * shares[np.argmin(np.abs(variance_ratio(shares, ratio, inner_steps) - 1))])


def variance_ratio(
    share: Float[np.ndarray, " n"] | float, ratio: float, inner_steps: int
) -> Float[np.ndarray, " n"] | Array | float:
    """Variance over sigma_i^2 after `inner_steps` steps with alpha_i = share * sigma_i^2 from variance (ratio sigma_i)^2.

    Song & Ermon 2020, proposition 3: x <- (1 - share) x + sqrt(2 share) sigma_i z, whose stationary variance is
    sigma_i^2 / (1 - share / 2).
    """
    stationary = 1 / (1 - share / 2)
    return stationary + (1 - share) ** (2 * inner_steps) * (ratio**2 - stationary)
