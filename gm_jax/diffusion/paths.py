"""Noise paths: x_t = alpha(t) x0 + sigma(t) eps, with eps ~ N(0, I) and t running from data (t = 0) to noise (t = t_max).

DDPM, score SDEs, EDM and rectified flow differ only in `alpha`, `sigma` and in what their network predicts (`predictions`).
Everything else follows from the path and from an estimate of E[x0 | x_t]. Throughout, `t` is a scalar or has the batch's
shape [batch].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

Images = Float[Array, "batch *shape"]
Time = Float[Array, " *batch"]  # a scalar, or one time per example
Denoiser = Callable[[Images, Time], Images]  # (x_t, t) -> E[x0 | x_t]


class Path(NamedTuple):
    """x_t = alpha(t) x0 + sigma(t) eps. Clean at t = 0: alpha(0) = 1, sigma(0) = 0; alpha/sigma falls as t grows."""

    alpha: Callable[[Time], Time]
    sigma: Callable[[Time], Time]
    t_of_log_snr: Callable[[Time], Time]  # inverse of `log_snr`
    t_min: float  # smallest time at which a denoiser is worth asking
    t_max: float


def log_snr(path: Path, t: Time) -> Time:
    """log(alpha^2 / sigma^2) in nats: +inf at t = 0."""
    t = jnp.asarray(t)
    return 2 * (jnp.log(path.alpha(t)) - jnp.log(path.sigma(t)))


# --- paths --------------------------------------------------------------------------------------------------------------------


def flow_path(t_min: float = 1e-3, t_max: float = 1.0) -> Path:
    """Rectified flow (Liu et al. 2022; Lipman et al. 2022 with sigma_min = 0): alpha = 1 - t, sigma = t."""
    return Path(lambda t: 1 - t, lambda t: t, lambda log_snr: jax.nn.sigmoid(-log_snr / 2), t_min, t_max)


def edm_path(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Path:
    """Karras et al. 2022, table 1: alpha = 1 and time is the noise level, sigma = t."""
    return Path(jnp.ones_like, lambda t: t, lambda log_snr: jnp.exp(-log_snr / 2), sigma_min, sigma_max)


def vp_path(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-5) -> Path:
    """The variance-preserving SDE of Song et al. 2021 (eq. 11, 33), on t in [0, 1]: beta(t) linear from beta_min to beta_max.

    alpha = exp(-B(t) / 2) with B the integral of beta from 0 to t, and alpha^2 + sigma^2 = 1.
    """
    integral, inverse = _linear_integral(beta_min, beta_max)
    return Path(
        lambda t: jnp.exp(-integral(t) / 2),
        lambda t: jnp.sqrt(-jnp.expm1(-integral(t))),
        lambda log_snr: inverse(jax.nn.softplus(-log_snr)),
        t_min,
        t_max=1.0,
    )


def sub_vp_path(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-5) -> Path:
    """The sub-VP SDE of Song et al. 2021 (eq. 13, 34): alpha as of `vp_path`, and sigma = 1 - alpha^2, which is smaller."""
    integral, inverse = _linear_integral(beta_min, beta_max)
    return Path(
        lambda t: jnp.exp(-integral(t) / 2),
        lambda t: -jnp.expm1(-integral(t)),
        lambda log_snr: inverse(2 * jnp.arcsinh(jnp.exp(-log_snr / 2) / 2)),
        t_min,
        t_max=1.0,
    )


def _linear_integral(first: float, last: float) -> tuple[Callable[[Time], Time], Callable[[Time], Time]]:
    """B(t) = first t + (last - first) t^2 / 2, and its inverse. Raises ValueError unless 0 < first <= last."""
    if not 0 < first <= last:
        raise ValueError(f"beta_min={first:g} and beta_max={last:g} must satisfy 0 < beta_min <= beta_max")
    slope = last - first
    return lambda t: (first + slope * t / 2) * t, lambda b: 2 * b / (first + jnp.sqrt(first**2 + 2 * slope * b))


def ve_path(sigma_min: float = 0.02, sigma_max: float = 100.0, t_min: float = 1e-5) -> Path:
    """The variance-exploding SDE of Song et al. 2021 (eq. 9, 31): alpha = 1, sigma = sigma_min (sigma_max / sigma_min)^t.

    t in [0, 1]; below t_min sigma goes to 0 in a straight line. The paper's sigmas, 0.01 to 50, are of pixels in [0, 1]; these
    are of pixels in [-1, 1]. Raises ValueError unless 0 < sigma_min < sigma_max.
    """
    _check_sigmas(sigma_min, sigma_max)
    rate = np.log(sigma_max / sigma_min)
    lowest = sigma_min * np.exp(rate * t_min)

    def sigma(t):
        t = jnp.asarray(t) * 1.0
        return jnp.where(t >= t_min, sigma_min * jnp.exp(rate * t), lowest * t / t_min)

    def t_of_log_snr(log_snr):
        ratio = jnp.exp(-log_snr / 2)
        return jnp.where(ratio >= lowest, jnp.log(ratio / sigma_min) / rate, t_min * ratio / lowest)

    return Path(lambda t: jnp.ones_like(jnp.asarray(t) * 1.0), sigma, t_of_log_snr, t_min, t_max=1.0)


def log_snr_path(log_snr_min: float = -5.0, log_snr_max: float = 13.3, t_min: float = 1e-3) -> Path:
    """Time is log-SNR (Kingma et al. 2021): from log_snr_max at t = 0 evenly to log_snr_min at t = 1, alpha^2 + sigma^2 = 1.

    Below t_min sigma goes to 0 in a straight line. Raises ValueError unless log_snr_min < log_snr_max.
    """
    if not log_snr_min < log_snr_max:
        raise ValueError(f"log_snr_min={log_snr_min:g} must be less than log_snr_max={log_snr_max:g}")

    def sigma(t):
        t = jnp.asarray(t) * 1.0
        of_log_snr = lambda t: jnp.sqrt(jax.nn.sigmoid((log_snr_max - log_snr_min) * t - log_snr_max))  # noqa: E731
        return jnp.where(t >= t_min, of_log_snr(jnp.maximum(t, t_min)), of_log_snr(t_min) * t / t_min)

    def t_of_log_snr(log_snr):
        t = (log_snr_max - log_snr) / (log_snr_max - log_snr_min)
        below = t_min * jnp.sqrt(jax.nn.sigmoid(-log_snr)) / sigma(t_min)
        return jnp.where(t >= t_min, t, below)

    return Path(lambda t: jnp.sqrt((1 - sigma(t)) * (1 + sigma(t))), sigma, t_of_log_snr, t_min, t_max=1.0)


def discrete_path(betas: Float[np.ndarray, " T"]) -> Path:
    """The variance-preserving chain of Ho et al. 2020, eq. 2-4, with betas[t-1] the variance added by step t = 1..T.

    The tables have T+1 entries, computed in float64 on the host; entry 0 is clean data. `t` may be any real in [0, T]:
    alpha and sigma are exact at the nodes and linear between them. Raises ValueError unless there are at least two betas,
    all in (0, 1).
    """
    betas = np.asarray(betas, np.float64)
    if betas.ndim != 1 or len(betas) < 2 or not np.all((betas > 0) & (betas < 1)):
        raise ValueError("betas must be at least two numbers strictly between 0 and 1")
    log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
    return _table_path(alphas=np.exp(log_alpha_bar / 2), sigmas=np.sqrt(-np.expm1(log_alpha_bar)))


def geometric_path(sigma_min: float, sigma_max: float, levels: int) -> Path:
    """Noise levels as of Song & Ermon 2019, section 4: alpha = 1, sigma(1..levels) a geometric sequence that ascends with t.

    sigma is exponential also between the levels, and linear from sigma(0) = 0 to sigma(1) = sigma_min. Raises ValueError unless
    0 < sigma_min < sigma_max and there are at least two levels.
    """
    _check_sigmas(sigma_min, sigma_max)
    if levels < 2:
        raise ValueError(f"a sequence of noise levels needs at least 2, not {levels}")
    rate = np.log(sigma_max / sigma_min) / (levels - 1)  # of log sigma, a level

    def sigma(t):
        t = jnp.asarray(t) * 1.0  # whole numbers too
        return sigma_min * jnp.where(t > 1, jnp.exp(rate * (t - 1)), t)  # at t = 1 the slope of the way down, as in tables

    def t_of_log_snr(log_snr):
        ratio = jnp.exp(-log_snr / 2) / sigma_min
        return jnp.where(ratio > 1, 1 + jnp.log(ratio) / rate, ratio)

    return Path(lambda t: jnp.ones_like(jnp.asarray(t) * 1.0), sigma, t_of_log_snr, t_min=1.0, t_max=float(levels))


def _check_sigmas(sigma_min: float, sigma_max: float) -> None:
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min={sigma_min:g} and sigma_max={sigma_max:g} must satisfy 0 < sigma_min < sigma_max")


def _table_path(alphas: np.ndarray, sigmas: np.ndarray) -> Path:
    T = len(alphas) - 1

    def interpolate(table):
        def value(t):
            t = jnp.asarray(t) * 1.0  # whole numbers too
            # the segment that ends in t: a sampler at a node steps down into it, so its slope is the one that `velocity` wants
            i = jnp.clip(jnp.ceil(t).astype(jnp.int32) - 1, 0, T - 1)
            nodes, fraction = jnp.asarray(table, t.dtype), t - i
            return (1 - fraction) * nodes[i] + fraction * nodes[i + 1]  # this form is exact at both ends

        return value

    def t_of_log_snr(log_snr):
        ratio = jnp.exp(-log_snr / 2)  # sigma / alpha: finite at the clean end, where alpha / sigma is not
        a, s, ratios = (jnp.asarray(table, ratio.dtype) for table in (alphas, sigmas, sigmas / alphas))
        i = jnp.clip(jnp.searchsorted(ratios, ratio) - 1, 0, T - 1)
        fraction = (ratio * a[i] - s[i]) / (s[i + 1] - s[i] - ratio * (a[i + 1] - a[i]))
        return i + jnp.clip(fraction, 0, 1)

    return Path(interpolate(alphas), interpolate(sigmas), t_of_log_snr, t_min=1.0, t_max=float(T))


# --- noise --------------------------------------------------------------------------------------------------------------------


class Coefficients(NamedTuple):
    """alpha, sigma and their time derivatives at t, shaped so as to multiply a batch of images."""

    alpha: Array
    sigma: Array
    d_alpha: Array
    d_sigma: Array


def coefficients(path: Path, t: Time, x: Images) -> Coefficients:
    """The path's coefficients at `t`, with singleton axes appended where `t` is per example."""
    t = like(t, x)
    one = jnp.ones_like(t)
    (alpha, d_alpha), (sigma, d_sigma) = jax.jvp(path.alpha, (t,), (one,)), jax.jvp(path.sigma, (t,), (one,))
    return Coefficients(alpha, sigma, d_alpha, d_sigma)


def add_noise(path: Path, x0: Images, eps: Images, t: Time) -> Images:
    """A draw x_t of q(x_t | x0) from the standard normal noise `eps`."""
    return like(path.alpha(t), x0) * x0 + like(path.sigma(t), x0) * eps


def like(values: Array, x: Array) -> Array:
    """Per-example values with axes appended until they broadcast against `x`; scalars do so already."""
    values = jnp.asarray(values, jnp.result_type(float))
    return values.reshape(values.shape + (1,) * (x.ndim - 1)) if values.ndim == 1 else values


# --- posteriors ---------------------------------------------------------------------------------------------------------------


class Posterior(NamedTuple):
    """q(x_s | x_t, x0) = N(of_x0 * x0 + of_x_t * x_t, variance I), beside the variance of the step s -> t that it reverses."""

    of_x0: Time
    of_x_t: Time
    variance: Time  # of q(x_s | x_t, x0): Ho et al.'s beta-tilde, "fixed_small"
    transition: Time  # of q(x_t | x_s): Ho et al.'s beta, "fixed_large"


def posterior(path: Path, t: Time, s: Time) -> Posterior:
    """q(x_s | x_t, x0) for any 0 <= s < t <= t_max (Ho et al. 2020, eq. 6-7; Kingma et al. 2021, appendix A).

    The variance of q(x_t | x_s) is written -sigma_t^2 expm1(log_snr_t - log_snr_s): without cancellation when s is near t, and
    with the right limit (everything from x0, no variance) at s = 0.
    """
    t, s = jnp.asarray(t), jnp.asarray(s)
    lost = -jnp.expm1(log_snr(path, t) - log_snr(path, s))  # share of the signal-to-noise ratio that step s -> t destroys
    of_x_t = path.alpha(t) / path.alpha(s) * (path.sigma(s) / path.sigma(t)) ** 2
    return Posterior(path.alpha(s) * lost, of_x_t, path.sigma(s) ** 2 * lost, path.sigma(t) ** 2 * lost)
