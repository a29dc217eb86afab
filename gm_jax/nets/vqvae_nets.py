"""Convolutional encoder and decoder with a spatial latent: those of the VQ-VAE's CIFAR-10 example in DeepMind's Sonnet
(sonnet/examples/vqvae_example.ipynb). ReLU, no normalisation.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.errors import InputError


def code_grid(image_shape: Sequence[int], halvings: int) -> tuple[int, int]:
    """Height and width of the latent. Raises InputError where the image cannot be halved so often, or `halvings` is below 1."""
    if len(image_shape) != 3:
        raise InputError(f"the VQ-VAE is for images, not for points of {image_shape[0]} numbers")
    height, width, _ = image_shape
    if halvings < 1 or height % 2**halvings or width % 2**halvings:
        raise InputError(f"halvings={halvings} does not fit images of {height}x{width}: take fewer (at least 1), or resize")
    return height >> halvings, width >> halvings


class ResidualStack(nn.Module):
    """`num_blocks` times x + (relu, 3x3 convolution to a quarter of the channels, relu, 1x1 convolution back); then relu."""

    num_blocks: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width channel"]:
        channels = x.shape[-1]
        for _ in range(self.num_blocks):
            h = nn.Conv(max(channels // 4, 1), (3, 3), dtype=self.dtype)(nn.relu(x))
            x = x + nn.Conv(channels, (1, 1), dtype=self.dtype)(nn.relu(h))
        return nn.relu(x)


class Encoder(nn.Module):
    """Image in [-1, 1] to a grid of `features` numbers, float32. `channels` at the lowest grid, half as many one above it.

    Without `features`: to the `channels` at the lowest grid.
    """

    features: int | None
    channels: int
    halvings: int
    num_blocks: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch h w features"]:
        for i in reversed(range(self.halvings)):
            x = nn.relu(nn.Conv(self.channels >> i, (4, 4), strides=2, dtype=self.dtype)(x))
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype)(x)
        x = ResidualStack(self.num_blocks, self.dtype)(x)
        if self.features is not None:
            x = nn.Conv(self.features, (1, 1), dtype=self.dtype)(x)
        return x.astype(jnp.float32)


class Decoder(nn.Module):
    """The mirror image of the encoder: a grid of vectors to an image, unbounded float32."""

    image_channels: int
    channels: int
    halvings: int
    num_blocks: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "batch h w features"]) -> Float[Array, "batch height width channel"]:
        x = nn.Conv(self.channels, (3, 3), dtype=self.dtype)(z)
        x = ResidualStack(self.num_blocks, self.dtype)(x)
        for i in range(1, self.halvings):
            x = nn.relu(nn.ConvTranspose(self.channels >> i, (4, 4), strides=(2, 2), dtype=self.dtype)(x))
        return nn.ConvTranspose(self.image_channels, (4, 4), strides=(2, 2), dtype=self.dtype)(x).astype(jnp.float32)
