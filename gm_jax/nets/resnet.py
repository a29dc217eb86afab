"""Residual convolutional encoder and decoder for 2-D images: pre-activation blocks (He et al. 2016, "Identity mappings in deep
residual networks") with group normalisation (Wu & He 2018) and swish.

Every stage halves the grid, also the first: no block runs at full resolution, where most of the time would go. The decoder
mirrors the encoder.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.errors import InputError
from gm_jax.nets.layers import depth_to_space, group_norm, upsample_nearest

SMALLEST_GRID = 4
LARGEST_MULTIPLIER = 4


def default_multipliers(image_shape: Sequence[int]) -> tuple[int, ...]:
    """One entry per halving, down to a grid of 4 or of odd size, at least one.

    (1, 2, 4) for 32x32, (1, 2) for 28x28, (1,) for 8x8.
    """
    height, width, _ = image_shape
    stages = 1
    while (height >> stages) % 2 == 0 and (width >> stages) % 2 == 0 and min(height, width) >> stages > SMALLEST_GRID:
        stages += 1
    return tuple(min(2**stage, LARGEST_MULTIPLIER) for stage in range(stages))


def lowest_grid(image_shape: Sequence[int], multipliers: Sequence[int]) -> tuple[int, int]:
    """Height and width after one halving per multiplier.

    Raises InputError where there is no multiplier, or the image does not divide by 2**len(multipliers).
    """
    height, width, _ = image_shape
    factor = 2 ** len(multipliers)
    if not multipliers or height % factor or width % factor:
        raise InputError(
            f"channel_multipliers={tuple(multipliers)} halves the image once per entry, which {height}x{width} does not allow: "
            "give at least one entry and no more than the size can be halved, or resize the images"
        )
    return height // factor, width // factor


class ResidualBlock(nn.Module):
    """x + f(x), where f is (norm, swish, 3x3 convolution) twice. The second convolution starts at zero: the identity."""

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width channel"]:
        channels = x.shape[-1]
        h = nn.swish(group_norm(channels, self.dtype, most=8)(x))
        h = nn.Conv(channels, (3, 3), dtype=self.dtype)(h)
        h = nn.swish(group_norm(channels, self.dtype, most=8)(h))
        return x + nn.Conv(channels, (3, 3), kernel_init=nn.initializers.zeros, dtype=self.dtype)(h)


class Encoder(nn.Module):
    """Image in [-1, 1] to `features` numbers, float32: stages of a strided convolution and residual blocks, then a dense layer.

    Raises InputError where the image cannot be halved once per multiplier.
    """

    features: int
    channels: int
    multipliers: Sequence[int]
    num_blocks: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch features"]:
        lowest_grid(x.shape[1:], self.multipliers)
        for stage, multiplier in enumerate(self.multipliers):
            kernel = (4, 4) if stage == 0 else (3, 3)
            x = nn.Conv(self.channels * multiplier, kernel, strides=2, dtype=self.dtype)(x)
            for _ in range(self.num_blocks):
                x = ResidualBlock(self.dtype)(x)
        x = nn.swish(group_norm(x.shape[-1], self.dtype, most=8)(x))
        return nn.Dense(self.features, dtype=self.dtype)(x.reshape(len(x), -1)).astype(jnp.float32)


class Decoder(nn.Module):
    """Latent to image, unbounded float32: a dense layer to the lowest grid, then stages of residual blocks and upsampling.

    The last convolution starts at zero, so that an untrained decoder returns the grey image. Raises InputError where the image
    cannot be halved once per multiplier.
    """

    image_shape: Sequence[int]
    channels: int
    multipliers: Sequence[int]
    num_blocks: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "batch latent"]) -> Float[Array, "batch height width channel"]:
        height, width = lowest_grid(self.image_shape, self.multipliers)
        x = nn.Dense(height * width * self.channels * self.multipliers[-1], dtype=self.dtype)(z)
        x = x.reshape(len(z), height, width, -1)
        for stage, multiplier in enumerate(reversed(self.multipliers)):
            if stage > 0:  # a 1x1 convolution commutes with nearest-neighbour upsampling: a quarter of the work before it
                x = upsample_nearest(nn.Dense(self.channels * multiplier, dtype=self.dtype)(x))
            for _ in range(self.num_blocks):
                x = ResidualBlock(self.dtype)(x)
        x = nn.swish(group_norm(x.shape[-1], self.dtype, most=8)(x))
        x = nn.Conv(4 * self.image_shape[-1], (3, 3), kernel_init=nn.initializers.zeros, dtype=self.dtype)(x)
        return depth_to_space(x).astype(jnp.float32)
