"""Densities that all families share, in nats; among them, how models of real numbers are charged for discrete images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr, logsumexp
from jaxtyping import Float, UInt8


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


def marginal_over_classes(
    nats_of: Callable[[Array], Float[Array, " batch"]], batch: int, num_classes: int
) -> Float[Array, " batch"]:
    """-log p(x) = -log 1/K sum_y p(x|y) in nats, of K equally frequent classes, from `nats_of(labels [batch])` = -log p(x|y).

    Where exp(-nats) is an unbiased estimate of p(x|y), as the weights of importance sampling are, the result is in expectation
    a bound of -log p(x) (Jensen). It is none from an unbiased estimate of the nats themselves.
    """
    by_class = jax.lax.map(lambda label: nats_of(jnp.full(batch, label)), jnp.arange(num_classes))
    return jnp.log(num_classes) - logsumexp(-by_class, axis=0)
