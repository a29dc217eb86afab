"""Densities that all families share, in nats; among them, how models of real numbers are charged for discrete images."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import log_sigmoid, log_softmax, softmax
from jax.scipy.special import log_ndtr, logsumexp
from jaxtyping import Float, UInt8

from gm_jax.core import Key
from gm_jax.images import to_float, to_uint8

MIN_LOG_SCALE = -7.0  # of a logistic in [-1, 1]: nearly all of its mass then lies in one uint8 level


def gaussian_log_prob(
    x: Float[Array, "batch *dims"], mean: float | Float[Array, "..."], variance: float | Float[Array, "..."]
) -> Float[Array, " batch"]:
    """log N(x; mean, variance) in nats, with its constant, summed over all but the first axis.

    `mean` and `variance` broadcast to x.
    """
    density = -0.5 * ((x - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))
    return density.sum(range(1, density.ndim))


def discretized_gaussian_log_prob(
    images: UInt8[Array, "*shape"], mean: Float[Array, "*shape"], variance: Float[Array, ""] | float
) -> Float[Array, "*shape"]:
    """Log probability (nats, per pixel) of uint8 levels under N(mean, variance) in [-1, 1], integrated over each level's bin.

    Bins are +-1/255 wide about level/127.5 - 1; the first and the last are open, so that the 256 levels sum to one
    (Ho et al. 2020, eq. 13).
    """
    centre, std = images.astype(jnp.result_type(float)) / 127.5 - 1 - mean, jnp.sqrt(variance)
    low, high = (centre - 1 / 255) / std, (centre + 1 / 255) / std
    # mirrored into the lower tail, where log_ndtr keeps its relative precision
    mirrored = centre > 0
    near = log_ndtr(jnp.where(mirrored, -low, high))
    far = log_ndtr(jnp.where(mirrored, -high, low))
    gap = jnp.maximum(near - far, jnp.finfo(near.dtype).tiny)
    inside = near + jnp.log(-jnp.expm1(-gap))
    return jnp.where(images == 0, log_ndtr(high), jnp.where(images == 255, log_ndtr(-low), inside))


# --- mixtures of discretized logistics (Salimans et al. 2017, "PixelCNN++") --------------------------------------------------


class LogisticMixture(NamedTuple):
    """The distribution of one pixel in [-1, 1]: a mixture of which each component is a product of logistics over its channels.

    The mean of green moves with red, that of blue with red and green: linearly, by `slopes` in [-1, 1] (red to green, red to
    blue, green to blue), each component's own. A grey pixel has none.
    """

    logits: Float[Array, "*shape component"]
    means: Float[Array, "*shape channel component"]
    log_scales: Float[Array, "*shape channel component"]
    slopes: Float[Array, "*shape 3 component"] | None


def mixture_size(channels: int, components: int) -> int:
    """How many numbers describe the mixture of a pixel of 1 or 3 channels: 3 or 10 for each component."""
    return components * {1: 3, 3: 10}[channels]


def logistic_mixture(numbers: Float[Array, "*shape numbers"], channels: int) -> LogisticMixture:
    """The mixture that a network's answer stands for, in the order of the authors' code; log scales are at least -7."""
    components = numbers.shape[-1] // mixture_size(channels, 1)
    logits, rest = numbers[..., :components], numbers[..., components:]
    means, log_scales, *slopes = jnp.split(rest.reshape(*rest.shape[:-1], channels, -1), 2 if channels == 1 else 3, axis=-1)
    return LogisticMixture(logits, means, jnp.maximum(log_scales, MIN_LOG_SCALE), jnp.tanh(slopes[0]) if slopes else None)


def logistic_mixture_log_prob(images: UInt8[Array, "*shape channel"], mixture: LogisticMixture) -> Float[Array, "*shape"]:
    """Log probability (nats, per pixel) of uint8 pixels (eq. 2 and 3): over all pixels the probabilities sum to one.

    Bins are as in `discretized_gaussian_log_prob`. With the edges a > b of a bin in units of the scale,
    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which loses no precision in the tails.
    """
    x = to_float(images)[..., None]
    means = mixture.means
    if mixture.slopes is not None:
        red, green = x[..., 0, :], x[..., 1, :]
        means = jnp.stack([means[..., 0, :], *_moved(mixture, red, green)], axis=-2)
    per_scale = jnp.exp(-mixture.log_scales)
    below_high = log_sigmoid((x + 1 / 255 - means) * per_scale)
    above_low = log_sigmoid((means - x + 1 / 255) * per_scale)
    inside = below_high + above_low + jnp.log(-jnp.expm1(-2 / 255 * per_scale))
    level = images[..., None]
    log_probs = jnp.where(level == 0, below_high, jnp.where(level == 255, above_low, inside)).sum(-2)
    return logsumexp(log_probs + log_softmax(mixture.logits), axis=-1)


def logistic_mixture_mean(mixture: LogisticMixture) -> Float[Array, "*shape channel"]:
    """The expected pixel before its logistics are cut into levels: so it may lie beyond [-1, 1]."""
    means = [mixture.means[..., 0, :]]
    if mixture.slopes is not None:
        means.append(_moved(mixture, means[0], means[0])[0])
        means.append(_moved(mixture, *means)[1])
    return (softmax(mixture.logits)[..., None, :] * jnp.stack(means, axis=-2)).sum(-1)


def draw_logistic_mixture(
    keys: Key, mixture: LogisticMixture, temperature: float | Float[Array, ""] = 1.0
) -> UInt8[Array, "batch channel"]:
    """One pixel a key, drawn from the probabilities of `logistic_mixture_log_prob`.

    At another temperature than 1 the component is drawn from softmax(logits / temperature), and its logistics are so many times
    as wide: the paper has none.
    """

    def one(key, mixture):
        channels, _ = mixture.means.shape
        component_key, noise_key = jax.random.split(key)
        chosen = jax.random.categorical(component_key, mixture.logits / temperature)
        mixture = jax.tree.map(lambda a: a[..., chosen, None], mixture)
        spread = temperature * jnp.exp(mixture.log_scales[:, 0]) * jax.random.logistic(noise_key, (channels,))

        def level(mean, i):
            return to_float(to_uint8(jnp.clip(mean[0] + spread[i], -1, 1)))

        x = [level(mixture.means[0], 0)]
        if mixture.slopes is not None:
            nothing = jnp.zeros(1)
            x.append(level(_moved(mixture, x[0], nothing)[0], 1))
            x.append(level(_moved(mixture, x[0], x[1])[1], 2))
        return to_uint8(jnp.stack(x))

    return jax.vmap(one)(keys, mixture)


def _moved(mixture: LogisticMixture, red: Array, green: Array) -> tuple[Array, Array]:
    """The means of green and of blue (eq. 3)."""
    means, slopes = mixture.means, mixture.slopes
    of_green = means[..., 1, :] + slopes[..., 0, :] * red
    return of_green, means[..., 2, :] + slopes[..., 1, :] * red + slopes[..., 2, :] * green


def marginal_over_classes(
    nats_of: Callable[[Array], Float[Array, " batch"]], batch: int, num_classes: int
) -> Float[Array, " batch"]:
    """-log p(x) = -log 1/K sum_y p(x|y) in nats, of K equally frequent classes, from `nats_of(labels [batch])` = -log p(x|y).

    Where exp(-nats) is an unbiased estimate of p(x|y), as the weights of importance sampling are, the result is in expectation
    a bound of -log p(x) (Jensen). It is none from an unbiased estimate of the nats themselves.
    """
    by_class = jax.lax.map(lambda label: nats_of(jnp.full(batch, label)), jnp.arange(num_classes))
    return jnp.log(num_classes) - logsumexp(-by_class, axis=0)
