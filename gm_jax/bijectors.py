"""Bijectors: maps between data x and latents z that can be inverted, and whose Jacobians have cheap determinants.

  RealNVP   Dinh et al. 2017, "Density estimation using real NVP"            couplings, masks, squeezing, several scales
  Glow      Kingma & Dhariwal 2018, "Glow"                                   actnorm, invertible 1x1 convolutions
  MAF       Papamakarios et al. 2017, "Masked autoregressive flow"           autoregressive; `inverted` it is IAF, which is
            Kingma et al. 2016, "Inverse autoregressive flow"

With z = f(x) and a density p of z,  log p(x) = log p(f(x)) + log |det df/dx|  (nats).

What a bijector learns are its parameters alone: masks, permutations and signs are constants that it closes over. A condition,
such as a one-hot label [batch, size], is told to the networks inside. All act on [batch, ..., channel], channels last.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Bool, Float

from gm_jax.core import Key, PyTree

# An inverse goes far beyond the data where a network answers what it never did in training. These bounds keep all numbers of it
# finite; nothing that is trained comes near them.
MAX_LOG_SCALE = 15.0
LARGEST = 1e6


class Bijector(NamedTuple):
    """A map as pure functions. `init` sees data, which data-dependent initialisation needs."""

    init: Callable[..., PyTree]  # (key, x, condition=None) -> params
    forward: Callable[..., tuple[Array, Array]]  # (params, x, condition=None) -> z, log |det dz/dx| [batch]
    inverse: Callable[..., Array]  # (params, z, condition=None) -> x


class Conditioner(NamedTuple):
    """A network that says how something else is shifted and scaled: z = (x + shift) exp(log_scale)."""

    init: Callable[..., PyTree]  # (key, x, condition=None) -> params
    apply: Callable[..., tuple[Array, Array]]  # (params, x, condition=None) -> shift, log_scale


class Autoregressive(NamedTuple):
    """A network whose answers for the i-th number of x [batch, dim] depend on those before it alone.

    `solve` finds x from z where x_i = mean_i + z_i exp(log_scale_i).
    """

    init: Callable[..., PyTree]  # (key, x, condition=None) -> params
    apply: Callable[..., tuple[Array, Array]]  # (params, x, condition=None) -> mean, log_scale [batch, dim]
    solve: Callable[..., Array]  # (params, z, condition=None) -> x


def bounded(log_scale: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Within +-MAX_LOG_SCALE."""
    return jnp.clip(log_scale, -MAX_LOG_SCALE, MAX_LOG_SCALE)


def finite(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Within +-LARGEST."""
    return jnp.clip(x, -LARGEST, LARGEST)


def _per_example(values: Float[Array, "batch *shape"]) -> Float[Array, " batch"]:
    return values.reshape(len(values), -1).sum(1)


def _no_log_det(x: Array) -> Float[Array, " batch"]:
    return jnp.zeros(len(x), x.dtype)


# --- bijectors made of bijectors ----------------------------------------------------------------------------------------------


def chain(steps: Mapping[str, Bijector]) -> Bijector:
    """One after the other, by name; each is initialised on what those before it make of the data."""

    def init(key: Key, x: Array, condition: Array | None = None) -> PyTree:
        params = {}
        for (name, step), step_key in zip(steps.items(), jax.random.split(key, len(steps)), strict=True):
            params[name] = step.init(step_key, x, condition)
            x, _ = step.forward(params[name], x, condition)
        return params

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        total = _no_log_det(x)
        for name, step in steps.items():
            x, log_det = step.forward(params[name], x, condition)
            total = total + log_det
        return x, total

    def inverse(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        for name, step in reversed(steps.items()):
            z = step.inverse(params[name], z, condition)
        return z

    return Bijector(init, forward, inverse)


def inverted(bijector: Bijector) -> Bijector:
    """The other way round: what was fast is slow. MAF becomes IAF."""

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        z = bijector.inverse(params, x, condition)
        return z, -bijector.forward(params, z, condition)[1]

    return Bijector(bijector.init, forward, lambda params, z, condition=None: bijector.forward(params, z, condition)[0])


def unconditional(bijector: Bijector) -> Bijector:
    """The same, told nothing."""
    return Bijector(
        lambda key, x, condition=None: bijector.init(key, x),
        lambda params, x, condition=None: bijector.forward(params, x),
        lambda params, z, condition=None: bijector.inverse(params, z),
    )


def multiscale(
    levels: Sequence[Bijector], shapes: Sequence[tuple[int, ...]], priors: Sequence[Bijector] | None = None
) -> Bijector:
    """x [batch, *shape] -> z [batch, dim]: after each level but the last, half of the channels are left alone from there on.

    shapes: of what each level gives. priors: for each level but the last a bijector of what is left alone, which is told the
    other half: with `gaussian` p(z_2 | z_1) of Glow. (Dinh et al. 2017, section 3.6; Kingma & Dhariwal 2018, section 3)
    """
    between = list(priors) if priors is not None else [identity()] * (len(levels) - 1)

    def init(key: Key, x: Array, condition: Array | None = None) -> PyTree:
        params = {}
        for i, level in enumerate(levels):
            level_key, prior_key, key = jax.random.split(key, 3)
            params[f"level{i}"] = level.init(level_key, x, condition)
            x, _ = level.forward(params[f"level{i}"], x, condition)
            if i < len(between):
                x, rest = jnp.split(x, 2, axis=-1)
                params |= {f"prior{i}": found} if (found := between[i].init(prior_key, rest, x)) else {}
        return params

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        left, total = [], _no_log_det(x)
        for i, level in enumerate(levels):
            x, log_det = level.forward(params[f"level{i}"], x, condition)
            total = total + log_det
            if i < len(between):
                x, rest = jnp.split(x, 2, axis=-1)
                rest, log_det = between[i].forward(params.get(f"prior{i}"), rest, x)
                left.append(rest.reshape(len(x), -1))
                total = total + log_det
        return jnp.concatenate([*left, x.reshape(len(x), -1)], axis=1), total

    def inverse(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        sizes = [int(np.prod(shape)) // 2 for shape in shapes[:-1]]
        *left, x = jnp.split(z, np.cumsum(sizes), axis=1)
        x = x.reshape(len(z), *shapes[-1])
        for i in reversed(range(len(levels))):
            if i < len(between):
                rest = left[i].reshape(len(z), *shapes[i][:-1], -1)
                x = jnp.concatenate([x, between[i].inverse(params.get(f"prior{i}"), rest, x)], axis=-1)
            x = levels[i].inverse(params[f"level{i}"], x, condition)
        return x

    return Bijector(init, forward, inverse)


# --- without parameters -------------------------------------------------------------------------------------------------------


def _volume_preserving(there: Callable[[Array], Array], back: Callable[[Array], Array]) -> Bijector:
    return Bijector(
        lambda key, x, condition=None: {},
        lambda params, x, condition=None: (there(x), _no_log_det(x)),
        lambda params, z, condition=None: back(z),
    )


def identity() -> Bijector:
    return _volume_preserving(lambda x: x, lambda z: z)


def reverse() -> Bijector:
    """The channels in the opposite order."""
    return _volume_preserving(lambda x: x[..., ::-1], lambda z: z[..., ::-1])


def flatten(shape: tuple[int, ...]) -> Bijector:
    """[batch, *shape] -> [batch, dim]."""
    return _volume_preserving(lambda x: x.reshape(len(x), -1), lambda z: z.reshape(len(z), *shape))


def squeeze() -> Bijector:
    """Each 2x2 patch becomes a position with four times the channels: those of a channel stay neighbours."""

    def there(x: Array) -> Array:
        n, height, width, channels = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, channels).transpose(0, 1, 3, 5, 2, 4)
        return x.reshape(n, height // 2, width // 2, 4 * channels)

    def back(z: Array) -> Array:
        n, height, width, channels = z.shape
        z = z.reshape(n, height, width, channels // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
        return z.reshape(n, 2 * height, 2 * width, channels // 4)

    return _volume_preserving(there, back)


def shifted(by: float) -> Bijector:
    """x + by."""
    return _volume_preserving(lambda x: x + by, lambda z: z - by)


def logit(alpha: float) -> Bijector:
    """x in [0, 1] -> logit(alpha + (1 - 2 alpha) x), so that no density is spent beyond the borders (Dinh et al. 2017, section
    4.1; with 1 - alpha in the paper, and 1 - 2 alpha in its authors' code and in MAF)."""

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        p = alpha + (1 - 2 * alpha) * x
        log_slope = np.log(1 - 2 * alpha) - jnp.log(p) - jnp.log1p(-p)
        return jnp.log(p) - jnp.log1p(-p), _per_example(log_slope)

    def inverse(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        return (jax.nn.sigmoid(z) - alpha) / (1 - 2 * alpha)

    return Bijector(lambda key, x, condition=None: {}, forward, inverse)


# --- with parameters ----------------------------------------------------------------------------------------------------------

LOG_SCALE_FACTOR = 3.0  # by which Glow's code multiplies log scales: they learn faster
NEVER_CONSTANT = 1e-6


def actnorm_init(x: Float[Array, "batch *shape channel"]) -> dict[str, Float[Array, " channel"]]:
    """A bias and a scale for each channel with which `x` has mean 0 and variance 1 (Kingma & Dhariwal 2018, section 3.1)."""
    axes = tuple(range(x.ndim - 1))
    return {"bias": -x.mean(axes), "log_scale": -jnp.log(x.std(axes) + NEVER_CONSTANT) / LOG_SCALE_FACTOR}


def actnorm() -> Bijector:
    """z = (x + bias) exp(3 log_scale) in each channel, initialised on data (section 3.1)."""

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        log_scale = bounded(LOG_SCALE_FACTOR * params["log_scale"])
        positions = x[0].size // x.shape[-1]
        return (x + params["bias"]) * jnp.exp(log_scale), _no_log_det(x) + positions * log_scale.sum()

    def inverse(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        return finite(z * jnp.exp(-bounded(LOG_SCALE_FACTOR * params["log_scale"])) - params["bias"])

    return Bijector(lambda key, x, condition=None: actnorm_init(x), forward, inverse)


def invertible_1x1(channels: int, seed: int = 0) -> Bijector:
    """z = W x at each position, with W = P L (U + diag(s)), which begins as a rotation (section 3.2, eq. 10 and 11).

    P and the signs of s are constants, drawn by `seed`. "lu" [channel, channel] holds L below its diagonal, U above it, and
    log |s| on it.
    """
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((channels, channels)))[0]
    order, start = _lu(rotation)
    sign = np.sign(np.diag(start))
    start = start + np.diag(np.log(np.abs(np.diag(start))) - np.diag(start))
    back = np.argsort(order).astype(np.int32)

    def factors(params: PyTree) -> tuple[Array, Array, Array]:
        lu = params["lu"]
        log_s = bounded(jnp.diagonal(lu))
        lower = jnp.tril(lu, -1) + jnp.eye(channels, dtype=lu.dtype)
        return lower, jnp.triu(lu, 1) + jnp.diag(sign.astype(lu.dtype) * jnp.exp(log_s)), log_s

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        lower, upper, log_s = factors(params)
        weight = (lower @ upper)[back]  # row `order[i]` of W is row i of the product
        return x @ weight.T, _no_log_det(x) + x[0].size // channels * log_s.sum()

    def inverse(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        lower, upper, _ = factors(params)
        inverse_lower = solve_triangular(lower, jnp.eye(channels, dtype=z.dtype)[order], lower=True, unit_diagonal=True)
        return finite(z @ solve_triangular(upper, inverse_lower).T)

    return Bijector(lambda key, x, condition=None: {"lu": jnp.asarray(start, x.dtype)}, forward, inverse)


def _lu(matrix: Float[np.ndarray, "n n"]) -> tuple[np.ndarray, Float[np.ndarray, "n n"]]:
    """Rows' order and the packed factors L \\ U of matrix[order], with pivots: Doolittle's method."""
    lu, order = matrix.copy(), np.arange(len(matrix), dtype=np.int32)
    for k in range(len(lu)):
        pivot = k + np.argmax(np.abs(lu[k:, k]))
        lu[[k, pivot]], order[[k, pivot]] = lu[[pivot, k]], order[[pivot, k]]
        lu[k + 1 :, k] /= lu[k, k]
        lu[k + 1 :, k + 1 :] -= np.outer(lu[k + 1 :, k], lu[k, k + 1 :])
    return order, lu


def coupling(network: Conditioner) -> Bijector:
    """The second half of the channels, shifted and scaled by what a network makes of the first (Dinh et al. 2017, eq. 7).

    Of an odd number of channels the first half is the smaller one.
    """

    def halves(x: Array) -> tuple[Array, Array]:
        return jnp.split(x, [x.shape[-1] // 2], axis=-1)

    def init(key: Key, x: Array, condition: Array | None = None) -> PyTree:
        return network.init(key, halves(x)[0], condition)

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        first, second = halves(x)
        shift, log_scale = network.apply(params, first, condition)
        log_scale = bounded(log_scale)
        second = (second + shift) * jnp.exp(log_scale)
        return jnp.concatenate([first, second], axis=-1), _per_example(log_scale)

    def inverse(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        first, second = halves(z)
        shift, log_scale = network.apply(params, first, condition)
        second = finite(second * jnp.exp(-bounded(log_scale)) - shift)
        return jnp.concatenate([first, second], axis=-1)

    return Bijector(init, forward, inverse)


def checkerboard(height: int, width: int, odd: bool = False) -> Bool[np.ndarray, "height width 1"]:
    """True where row + column is even, or odd (Dinh et al. 2017, figure 3)."""
    return ((np.add.outer(np.arange(height), np.arange(width)) % 2) == odd)[..., None]


def masked_coupling(network: Conditioner, mask: Bool[np.ndarray, "*shape"]) -> Bijector:
    """Where the mask is False x is shifted and scaled by what a network makes of the rest (Dinh et al. 2017, eq. 9).

    The network sees x times the mask, and the mask as a further channel.
    """

    def seen(x: Array) -> Array:
        return jnp.concatenate([x * mask, jnp.broadcast_to(mask, (len(x), *mask.shape)).astype(x.dtype)], axis=-1)

    def answer(params: PyTree, x: Array, condition: Array | None) -> tuple[Array, Array]:
        shift, log_scale = network.apply(params, seen(x), condition)
        return jnp.where(mask, 0, shift), jnp.where(mask, 0, bounded(log_scale))

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        shift, log_scale = answer(params, x, condition)
        return (x + shift) * jnp.exp(log_scale), _per_example(log_scale)

    def inverse(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        shift, log_scale = answer(params, z, condition)
        return finite(z * jnp.exp(-log_scale) - shift)

    return Bijector(lambda key, x, condition=None: network.init(key, seen(x), condition), forward, inverse)


def gaussian(network: Conditioner) -> Bijector:
    """All of x, shifted and scaled by what a network makes of the condition: z ~ N(0, I) where x is Gaussian given that.

    `network` is given zeros like x, whose shape it needs, beside the condition.
    """

    def answer(params: PyTree, x: Array, condition: Array | None) -> tuple[Array, Array]:
        shift, log_scale = network.apply(params, jnp.zeros_like(x), condition)
        return jnp.broadcast_to(shift, x.shape), jnp.broadcast_to(bounded(log_scale), x.shape)

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        shift, log_scale = answer(params, x, condition)
        return (x + shift) * jnp.exp(log_scale), _per_example(log_scale)

    def inverse(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        shift, log_scale = answer(params, z, condition)
        return finite(z * jnp.exp(-log_scale) - shift)

    return Bijector(lambda key, x, condition=None: network.init(key, jnp.zeros_like(x), condition), forward, inverse)


def autoregressive(network: Autoregressive) -> Bijector:
    """z_i = (x_i - mean_i) exp(-log_scale_i), of which both depend on x_1 .. x_{i-1} (Papamakarios et al. 2017, eq. 4, 5)."""

    def forward(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        mean, log_scale = network.apply(params, x, condition)
        log_scale = bounded(log_scale)
        return (x - mean) * jnp.exp(-log_scale), -_per_example(log_scale)

    return Bijector(network.init, forward, network.solve)
