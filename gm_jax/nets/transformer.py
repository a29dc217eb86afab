"""What Transformers of images share: patches, positions, attention, and what tells them time and labels."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.errors import InputError
from gm_jax.nets.attention import attention
from gm_jax.nets.layers import Dense
from gm_jax.nets.unet import merge_heads, split_heads

Tokens = Float[Array, "batch token channel"]


def fitting_patch(size: tuple[int, int]) -> int:
    """2 for images of up to 32x32, and what makes about 16x16 patches of larger ones."""
    return max(2, max(size) // 16)


def check_patches(size: tuple[int, int], patch_size: int, channels: int, num_heads: int) -> None:
    """InputError unless patches tile the image, and heads divide the channels."""
    if size[0] % patch_size or size[1] % patch_size:
        raise InputError(
            f"images of {size[0]}x{size[1]} are not tiled by patch_size={patch_size}; take a divisor of both sides"
        )
    if channels % num_heads or channels % 4:
        raise InputError(f"channels={channels} must be a multiple of num_heads={num_heads}, and of 4")


def patchify(x: Float[Array, "batch height width channel"], patch: int) -> Float[Array, "batch token patch*patch*channel"]:
    """An image's patches, row by row, each as a vector."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels).swapaxes(2, 3)
    return x.reshape(batch, -1, patch * patch * channels)


def unpatchify(x: Tokens, size: tuple[int, int], patch: int) -> Float[Array, "batch height width channel"]:
    """The inverse of `patchify`, for images of this height and width."""
    (height, width), batch = size, len(x)
    x = x.reshape(batch, height // patch, width // patch, patch, patch, -1).swapaxes(2, 3)
    return x.reshape(batch, height, width, -1)


def sinusoids(t: Float[Array, "*n"], channels: int, cosines_first: bool = True) -> Float[Array, "*n channel"]:
    """Cosines and sines of t at frequencies 10000^(-2i / channels), i = 0 .. channels / 2 - 1 (Vaswani et al. 2017)."""
    half = channels // 2
    angles = t[..., None] * jnp.exp(-math.log(10000) / half * jnp.arange(half))
    parts = (jnp.cos(angles), jnp.sin(angles))
    return jnp.concatenate(parts if cosines_first else parts[::-1], axis=-1)


def positions(rows: int, columns: int, channels: int) -> Float[np.ndarray, "token channel"]:
    """Where each patch lies: one half of the channels tells the column, the other one the row, in sines and cosines."""
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    with jax.ensure_compile_time_eval():
        halves = [sinusoids(jnp.float32(a.ravel()), channels // 2, cosines_first=False) for a in (x, y)]
        return np.concatenate(halves, axis=-1)


def split_condition(
    condition: Float[Array, "batch size"] | None, batch: int, num_classes: int
) -> tuple[Float[Array, "batch classes"], Float[Array, "batch others"]]:
    """A condition's one-hot labels and what is behind them; without a condition no example has a label."""
    return tuple(jnp.split(jnp.zeros((batch, num_classes)) if condition is None else condition, [num_classes], axis=1))


class SelfAttention(nn.Module):
    """Attention of tokens to one another, in several heads, between two dense layers."""

    num_heads: int
    qkv_bias: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        channels = x.shape[-1]
        parts = (Dense(channels, self.qkv_bias, self.dtype, name=name)(x) for name in ("query", "key", "value"))
        out = merge_heads(attention(*(split_heads(part, self.num_heads) for part in parts)), self.num_heads)
        return Dense(channels, dtype=self.dtype, name="out")(out)


class Perceptron(nn.Module):
    """Two dense layers, the first four times as wide, and GELU between them."""

    dtype: jnp.dtype
    approximate: bool  # tanh in GELU

    @nn.compact
    def __call__(self, x: Tokens) -> Tokens:
        h = Dense(4 * x.shape[-1], dtype=self.dtype, name="in")(x)
        return Dense(x.shape[-1], dtype=self.dtype, name="out")(partial(nn.gelu, approximate=self.approximate)(h))


class LabelEmbedding(nn.Module):
    """[b, classes] one-hot labels, or zeros for none -> [b, channels]: a vector for each class, and one for none."""

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, one_hot: Float[Array, "batch classes"]) -> Float[Array, "batch channel"]:
        none = 1 - one_hot.sum(axis=1, keepdims=True)
        rows = jnp.concatenate([one_hot, none], axis=1)
        kernel_init = nn.initializers.normal(0.02)
        return Dense(self.channels, use_bias=False, dtype=self.dtype, kernel_init=kernel_init, name="table")(rows)
