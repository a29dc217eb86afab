"""The probability of a uint8 level under a Gaussian: how models of real numbers are charged for discrete images."""

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import log_ndtr
from jaxtyping import Float, UInt8


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
