"""Operations that several networks share."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def group_norm(channels: int, dtype: jnp.dtype, most: int = 32, eps: float = 1e-6, name: str | None = None) -> nn.GroupNorm:
    """Group normalisation in `most` groups, or in fewer of at least four channels each; its statistics are float32 always.

    Normalising every channel by itself would hide how strong it is against the others.
    """
    groups = math.gcd(channels, min(most, max(1, channels // 4)))
    return nn.GroupNorm(groups, epsilon=eps, dtype=dtype, name=name)


def upsample_nearest(x: Float[Array, "batch height width channel"]) -> Float[Array, "batch 2*height 2*width channel"]:
    """Doubles height and width by repeating pixels."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def depth_to_space(x: Float[Array, "batch height width 4*channel"]) -> Float[Array, "batch 2*height 2*width channel"]:
    """Each position's channels become a 2x2 patch (Shi et al. 2016, sub-pixel convolution)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)


def flat_dot_general(
    x: Float[Array, "*batch channel"], kernel: Float[Array, "channel out"], dimensions: Any, **settings: Any
) -> Float[Array, "*batch out"]:
    """`jax.lax.dot_general` as `nn.Dense` calls it, as one matrix product: all axes of x but the last are one.

    The numbers are the same. But the gradient of the kernel is a sum over one axis then; where it goes over several, XLA first
    writes a transposed copy of what it sums on a CPU, which took a tenth of a Transformer's train step.
    """
    y = jax.lax.dot_general(x.reshape(-1, x.shape[-1]), kernel, (((1,), (0,)), ((), ())), **settings)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


# on tokens and on feature maps, where it is a 1x1 convolution
Dense = partial(nn.Dense, dot_general=flat_dot_general)


def with_ones(x: Float[Array, "*shape channel"]) -> Float[Array, "*shape channel1"]:
    """Pixels with a channel of ones, which tells them from what lies beyond the border."""
    return jnp.concatenate([x, jnp.ones((*x.shape[:-1], 1), x.dtype)], axis=-1)
