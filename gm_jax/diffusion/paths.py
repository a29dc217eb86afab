"""Noise paths: x_t = alpha(t) x0 + sigma(t) eps, with eps ~ N(0, I) and t running from data (t = 0) to noise (t = t_max).

DDPM, score SDEs, EDM and rectified flow differ only in `alpha`, `sigma` and in what their network predicts. Everything else
(posteriors, probability-flow velocity, step grids) follows from the path and from an estimate of E[x0 | x_t], and is written
here once. Throughout, `t` is a scalar or has the batch's shape [batch].
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


# ---------------------------------------------------------------- paths


def flow_path(t_min: float = 1e-3, t_max: float = 1.0) -> Path:
    """Rectified flow (Liu et al. 2022; Lipman et al. 2022 with sigma_min = 0): alpha = 1 - t, sigma = t."""
    return Path(lambda t: 1 - t, lambda t: t, lambda log_snr: jax.nn.sigmoid(-log_snr / 2), t_min, t_max)


def edm_path(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Path:
    """Karras et al. 2022, table 1: alpha = 1 and time is the noise level, sigma = t."""
    return Path(jnp.ones_like, lambda t: t, lambda log_snr: jnp.exp(-log_snr / 2), sigma_min, sigma_max)


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
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min={sigma_min:g} and sigma_max={sigma_max:g} must satisfy 0 < sigma_min < sigma_max")
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


# ---------------------------------------------------------------- what networks predict


class Coefficients(NamedTuple):
    """alpha, sigma and their time derivatives at t, shaped so as to multiply a batch of images."""

    alpha: Array
    sigma: Array
    d_alpha: Array
    d_sigma: Array


def coefficients(path: Path, t: Time, x: Images) -> Coefficients:
    """The path's coefficients at `t`, with singleton axes appended where `t` is per example."""
    t = _like(t, x)
    one = jnp.ones_like(t)
    (alpha, d_alpha), (sigma, d_sigma) = jax.jvp(path.alpha, (t,), (one,)), jax.jvp(path.sigma, (t,), (one,))
    return Coefficients(alpha, sigma, d_alpha, d_sigma)


class Kind(NamedTuple):
    """A quantity that a network may predict: what it is, and the x0 that it implies together with x_t."""

    target: Callable[[Array, Array, Coefficients], Array]  # (x0, eps, coefficients) -> prediction
    x0: Callable[[Array, Array, Coefficients], Array]  # (prediction, x_t, coefficients) -> x0


KINDS = {
    "x0": Kind(lambda x0, eps, c: x0, lambda p, x, c: p),
    "eps": Kind(lambda x0, eps, c: eps, lambda p, x, c: (x - c.sigma * p) / c.alpha),
    # Salimans & Ho 2022, appendix D
    "v": Kind(
        lambda x0, eps, c: c.alpha * eps - c.sigma * x0,
        lambda p, x, c: (c.alpha * x - c.sigma * p) / (c.alpha**2 + c.sigma**2),
    ),
    # grad log q(x_t | x0); Song et al. 2021
    "score": Kind(lambda x0, eps, c: -eps / c.sigma, lambda p, x, c: (x + c.sigma**2 * p) / c.alpha),
    # dx_t/dt at fixed (x0, eps); Lipman et al. 2022
    "velocity": Kind(
        lambda x0, eps, c: c.d_alpha * x0 + c.d_sigma * eps,
        lambda p, x, c: (c.d_sigma * x - c.sigma * p) / (c.alpha * c.d_sigma - c.sigma * c.d_alpha),
    ),
}


def add_noise(path: Path, x0: Images, eps: Images, t: Time) -> Images:
    """A draw x_t of q(x_t | x0) from the standard normal noise `eps`."""
    return _like(path.alpha(t), x0) * x0 + _like(path.sigma(t), x0) * eps


def target(path: Path, kind: str, x0: Images, eps: Images, t: Time) -> Images:
    """What a network of this kind should answer to x_t = alpha x0 + sigma eps. Kinds: eps, x0, v, score, velocity."""
    return _kind(kind).target(x0, eps, coefficients(path, t, x0))


def to_x0(path: Path, kind: str, prediction: Images, x_t: Images, t: Time) -> Images:
    """E[x0 | x_t] from a network's prediction of any kind (eps, x0, v, score, velocity), for t > 0."""
    return _kind(kind).x0(prediction, x_t, coefficients(path, t, x_t))


def to_eps(path: Path, x0: Images, x_t: Images, t: Time) -> Images:
    """E[eps | x_t] from x0 = E[x0 | x_t], for t > 0."""
    return (x_t - _like(path.alpha(t), x_t) * x0) / _like(path.sigma(t), x_t)


def velocity(path: Path, x0: Images, x_t: Images, t: Time) -> Images:
    """dx_t/dt = alpha' x0 + sigma' eps: the probability-flow ODE (Song et al. 2021, eq. 13), for t > 0."""
    return target(path, "velocity", x0, to_eps(path, x0, x_t, t), t)


def _kind(kind: str) -> Kind:
    if kind not in KINDS:
        raise ValueError(f"unknown kind of prediction {kind!r}; known: {', '.join(KINDS)}")
    return KINDS[kind]


def _like(values: Array, x: Array) -> Array:
    """Appends axes to per-example values until they broadcast against `x`; scalars do so already."""
    values = jnp.asarray(values, jnp.result_type(float))
    return values.reshape(values.shape + (1,) * (x.ndim - 1)) if values.ndim == 1 else values


# ---------------------------------------------------------------- posteriors


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


# ---------------------------------------------------------------- grids of times


def grid(path: Path, n: int, spacing: str) -> Float[Array, " n+1"]:
    """n+1 decreasing times in float32, from exactly t_max to exactly 0.

    Spacings: "uniform" (equal steps in t), "quadratic" (in sqrt t; Song et al. 2020, DDIM, appendix D.2), "log_snr" (Lu et
    al. 2022, DPM-Solver), "karras" (in (sigma/alpha)^(1/7); Karras et al. 2022, eq. 5), "nodes" (whole numbers, for
    discrete paths). All but "uniform" and "nodes" go down to t_min, then jump to 0. Raises ValueError for an unknown
    spacing, n < 1, more steps than nodes, or a spacing in log-SNR on a path that ends in pure noise (alpha(t_max) = 0).
    """
    if spacing not in SPACINGS:
        raise ValueError(f"unknown spacing {spacing!r}; known: {', '.join(SPACINGS)}")
    if n < 1:
        raise ValueError(f"a grid needs at least one step, not {n}")
    with jax.ensure_compile_time_eval():  # concrete even inside jit
        times = SPACINGS[spacing](path, n)
        times = jnp.asarray(times, jnp.float32).at[0].set(path.t_max).at[n].set(0.0)
        if not bool(jnp.all(times[1:] < times[:-1])):
            raise ValueError(f"{n} steps with {spacing!r} spacing are not distinct times in float32; take fewer steps")
    return times


def _uniform(path, n):
    return np.linspace(path.t_max, 0, n + 1)


def _quadratic(path, n):
    return _then_clean(np.linspace(path.t_max**0.5, path.t_min**0.5, n) ** 2)


def _log_snr(path, n):
    return _then_clean(path.t_of_log_snr(jnp.linspace(*_log_snr_ends(path), n)))


def _karras(path, n, rho=7):
    ends = np.exp(-0.5 * np.array(_log_snr_ends(path))) ** (1 / rho)
    return _then_clean(path.t_of_log_snr(jnp.asarray(-2 * rho * np.log(np.linspace(*ends, n)))))


def _nodes(path, n):
    if path.t_max != round(path.t_max) or n > path.t_max:
        raise ValueError(f"{n} steps do not fit on the {path.t_max:g} nodes of the path; take fewer steps or another spacing")
    return np.round(np.linspace(path.t_max, 0, n + 1))


def _log_snr_ends(path):
    first, last = (float(log_snr(path, jnp.asarray(t))) for t in (path.t_max, path.t_min))
    if not np.isfinite(first):
        raise ValueError("this path ends in pure noise, where log-SNR is infinite; choose a smaller t_max or another spacing")
    return first, last


def _then_clean(times):
    return jnp.append(jnp.asarray(times), 0.0)


SPACINGS = {"uniform": _uniform, "quadratic": _quadratic, "log_snr": _log_snr, "karras": _karras, "nodes": _nodes}
