"""The probability-flow ODE solved to a tolerance: the latent of an image, the image of a latent, and the density of either.

Any path, scaled to x / sqrt(alpha^2 + sigma^2) = cos(theta) x0 + sin(theta) eps, is the same path in theta = arctan(sigma /
alpha), and its ODE (Song et al. 2021, eq. 13) is

    dx / dtheta = (cos(theta) x - E[x0 | x]) / sin(theta),

finite also where alpha = 0. It runs between theta(t_min) and theta(t_max), at which x is taken for data and for noise. Every
example is solved by itself, with its own steps (Dormand-Prince 5(4), error control of diffrax): what is found of one does not
depend on the others.

`denoiser_of(row)` is the denoiser of one example, [1, ...] -> [1, ...]; `rows`, such as labels [n], has one entry for each.
"""

import math
from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, UInt8

from gm_jax.core import Key
from gm_jax.densities import gaussian_log_prob
from gm_jax.diffusion.paths import Denoiser, Images, Path

DenoiserOf = Callable[[Any], Denoiser]

TOLERANCE = 1e-5  # absolute and relative, of x: Song et al. 2021, appendix D.4
MOST_STEPS = 10_000
SMALL = 16  # numbers an example: up to so many the trace is computed exactly


def encode(path: Path, denoiser_of: DenoiserOf, x: Images, rows: Any = None, tolerance: float = TOLERANCE) -> Images:
    """The noise, about N(0, I), from which the ODE makes x."""
    low, high = _ends(path)
    ends = jax.vmap(lambda x, row: _solve(path, denoiser_of(row), x / _norm(path, path.t_min), low, high, tolerance))(x, rows)
    return ends / jnp.sin(high)


def decode(path: Path, denoiser_of: DenoiserOf, z: Images, rows: Any = None, tolerance: float = TOLERANCE) -> Images:
    """What the ODE makes of the noise z: the inverse of `encode`."""
    low, high = _ends(path)
    ends = jax.vmap(lambda z, row: _solve(path, denoiser_of(row), z * jnp.sin(high), high, low, tolerance))(z, rows)
    return ends * _norm(path, path.t_min)


def nats(
    path: Path,
    denoiser_of: DenoiserOf,
    keys: Key,
    x: Images,
    rows: Any = None,
    *,
    exact: bool | None = None,
    probes: int = 1,
    tolerance: float = TOLERANCE,
) -> Float[Array, " batch"]:
    """-log p(x) in nats, of x at t_min (Song et al. 2021, eq. 39; Chen et al. 2018, eq. 8). NaN where no solution is found.

    Args:
      keys: [batch] one key per example, from which probes are drawn.
      exact: the trace of the Jacobian itself, at the price of as many derivatives as an example has numbers; False:
        Hutchinson's estimate from `probes` random signs (eq. 40); None: exact for up to SMALL numbers.
    """
    size = x[0].size
    low, high = _ends(path)

    def one(key, x, row):
        if size <= SMALL if exact is None else exact:
            directions, weight = jnp.eye(size).reshape(size, *x.shape), 1.0
        else:
            directions, weight = jax.random.rademacher(key, (probes, *x.shape), x.dtype), 1 / probes
        start = x / _norm(path, path.t_min)
        end, gained = _solve(path, denoiser_of(row), start, low, high, tolerance, weight * directions)
        prior = gaussian_log_prob(end[None], 0.0, jnp.sin(high) ** 2)[0]
        return size * jnp.log(_norm(path, path.t_min)) - prior - gained

    return jax.vmap(one)(keys, x, rows)


def dequantized_nats(
    path: Path, denoiser_of: DenoiserOf, keys: Key, images: UInt8[Array, "batch *shape"], rows: Any = None, **options: Any
) -> Float[Array, " batch"]:
    """-log P(image) of uint8 images, from the density at a point drawn in each image's cell, 2/255 wide (Theis et al. 2016).

    In expectation a bound, but for the error of the solution, of Hutchinson's probes and of taking x at t_min for data.
    """
    uniform_keys, probe_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], minval=-0.5, maxval=0.5))(uniform_keys)
    x = (images + u) / 127.5 - 1
    return nats(path, denoiser_of, probe_keys, x, rows, **options) + math.log(127.5) * images[0].size


def _ends(path: Path) -> tuple[Array, Array]:
    """theta at t_min and at t_max."""
    t = jnp.array([path.t_min, path.t_max])
    return tuple(jnp.arctan2(path.sigma(t), path.alpha(t)))


def _norm(path: Path, t: Any) -> Array:
    t = jnp.asarray(t)
    return jnp.hypot(path.alpha(t), path.sigma(t))


def _solve(path, denoiser, x, start, end, tolerance, directions=None):
    """x at `end`; with directions [k, *shape] also the integral of the sum of their d J d, J the slope's Jacobian in x."""

    def slope(theta, x):
        cos, sin = jnp.maximum(jnp.cos(theta), 0.0), jnp.sin(theta)  # rounding takes the cosine of pi / 2 below 0
        t = path.t_of_log_snr(2 * (jnp.log(cos) - jnp.log(sin)))
        x0 = denoiser(_norm(path, t) * x[None], t)[0]
        return (cos * x - x0) / sin

    def with_trace(theta, state, _):
        x, _ = state
        value, along = _linear(lambda x: slope(theta, x), x)
        signs = jnp.sign(directions)
        return value, (directions * jax.vmap(along)(signs)).sum()

    f, state = (lambda theta, x, _: slope(theta, x), x) if directions is None else (with_trace, (x, jnp.zeros((), x.dtype)))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(f),
        diffrax.Dopri5(),
        start,
        end,
        None,
        state,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=MOST_STEPS,
        throw=False,
    )
    found = solution.result == diffrax.RESULTS.successful
    return jax.tree.map(lambda a: jnp.where(found, a[0], jnp.nan), solution.ys)


def _linear(f, x):
    """f(x), and v -> J v or its transpose, which have the same v J v.

    On a CPU forward derivatives: the backward ones of convolutions are slow there in a loop (`core.scan`). Elsewhere backward
    ones: fused attention has no other.
    """
    if jax.default_backend() == "cpu":
        return jax.linearize(f, x)
    value, backward = jax.vjp(f, x)
    return value, lambda v: backward(v)[0]
