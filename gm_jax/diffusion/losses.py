"""How denoisers are trained: one loss, and the choices that tell the papers apart.

DDPM            eps on a discrete path             times: nodes        Ho et al. 2020, eq. 14
NCSN            score, weighted by sigma^2 / 2     times: nodes        Song & Ermon 2019, eq. 6
score SDE       score, weighted by sigma^2         times: uniform      Song et al. 2021, eq. 7
EDM             preconditioned, unweighted         times: log_normal   Karras et al. 2022, eq. 8
flow matching   velocity                           times: uniform      Lipman et al. 2022, eq. 23
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.diffusion.paths import Coefficients, Images, Path, Time, add_noise, coefficients
from gm_jax.diffusion.predictions import Prediction, named

Answer = Callable[[Images, Time], Images]  # (x_t, t) -> a network's answer
DrawTime = Callable[[Array], Float[Array, ""]]  # a key -> a time
Weight = Callable[[Coefficients], Array]


def denoising_loss(
    path: Path,
    prediction: str | Prediction,
    answer: Answer,
    x0: Images,
    t: Time,
    eps: Images,
    weight: Weight | None = None,
) -> Float[Array, " batch"]:
    """Each example's squared error of the answer to x_t = alpha x0 + sigma eps, averaged over pixels, times the weight.

    `eps` is standard normal; `t` a scalar or one time per example; weight(coefficients at t), None for 1.
    """
    error = answer(add_noise(path, x0, eps, t), t) - named(prediction).target(x0, eps, coefficients(path, t, x0))
    if weight is not None:
        error = error * jnp.sqrt(weight(coefficients(path, t, x0)))
    return jnp.mean(error**2, axis=tuple(range(1, x0.ndim)))


# --- weights ------------------------------------------------------------------------------------------------------------------

# prediction -> its squared error, in units of that of x0, on a path with alpha^2 + sigma^2 = 1; SNR = alpha^2 / sigma^2
ERRORS: dict[str, Callable[[Array], Array]] = {"x0": jnp.ones_like, "eps": lambda snr: snr, "v": lambda snr: snr + 1}


def min_snr(prediction: str, gamma: float = 5.0) -> Weight:
    """min(SNR, gamma) times the squared error of x0, whatever is predicted (Hang et al. 2023, "Min-SNR", eq. 9)."""
    return _weight_of_x0(prediction, lambda snr: jnp.minimum(snr, gamma))


def p2(prediction: str, gamma: float = 1.0, k: float = 1.0) -> Weight:
    """1 / (k + SNR)^gamma times the squared error of eps, whatever is predicted (Choi et al. 2022, "P2 weighting", eq. 7)."""
    return _weight_of_x0(prediction, lambda snr: snr / (k + snr) ** gamma)


def _weight_of_x0(prediction: str, weight: Callable[[Array], Array]) -> Weight:
    def of_answer(c):
        snr = (c.alpha / c.sigma) ** 2
        return weight(snr) / ERRORS[prediction](snr)

    return of_answer


# --- times --------------------------------------------------------------------------------------------------------------------


def nodes(path: Path) -> DrawTime:
    """The whole numbers 1..t_max, all equally often."""
    return lambda key: jax.random.randint(key, (), 1, int(path.t_max) + 1).astype(jnp.result_type(float))


def uniform(path: Path) -> DrawTime:
    """Uniform on [t_min, t_max]."""
    return lambda key: jax.random.uniform(key, (), minval=path.t_min, maxval=path.t_max)


def log_normal(path: Path, mean: float, std: float) -> DrawTime:
    """ln(sigma / alpha) ~ N(mean, std^2), on any path, clipped to its times (Karras et al. 2022, table 1)."""

    def draw(key):
        log_ratio = mean + std * jax.random.normal(key, ())
        return jnp.clip(path.t_of_log_snr(-2 * log_ratio), path.t_min, path.t_max)

    return draw


def logit_normal(path: Path, mean: float = 0.0, std: float = 1.0) -> DrawTime:
    """t / t_max = sigmoid(u), u ~ N(mean, std^2) (Esser et al. 2024, section 3.1)."""
    return lambda key: path.t_max * jax.nn.sigmoid(mean + std * jax.random.normal(key, ()))
