"""DiT, the diffusion Transformer (Peebles & Xie 2023, https://arxiv.org/abs/2212.09748), with adaLN-Zero.

Patches become tokens with fixed positions. Every block normalises them without weights of its own; scale, shift and a gate on
what it adds are functions of time and label, and are zero to begin with (section 3.2), so that a fresh network answers zero.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.nets.layers import Dense
from gm_jax.nets.transformer import (
    LabelEmbedding,
    Perceptron,
    SelfAttention,
    Tokens,
    patchify,
    positions,
    sinusoids,
    split_condition,
    unpatchify,
)

FREQUENCIES = 256  # sines and cosines that tell the time
zeros, xavier = nn.initializers.zeros, nn.initializers.xavier_uniform()


class DiT(nn.Module):
    """(x [b, h, w, c], t [b] or scalar, condition [b, size] or None) -> float32 [b, h, w, out_channels].

    The first `num_classes` entries of the condition are a one-hot label, or zeros; the others are what augmentation did.
    `dropout` is of what attention and perceptron add, `remat` recomputes each block in the backward pass, which saves memory.
    """

    out_channels: int
    channels: int = 384
    depth: int = 12
    num_heads: int = 6
    patch_size: int = 2
    num_classes: int = 0
    dropout: float = 0.0
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channel"],
        t: Float[Array, " *batch"],
        condition: Float[Array, "batch size"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch height width out"]:
        size, patch = x.shape[1:3], self.patch_size
        told = self.told(jnp.broadcast_to(t, x.shape[:1]), condition)
        h = Dense(self.channels, dtype=self.dtype, kernel_init=xavier, name="patches")(patchify(x, patch))
        h = h + positions(size[0] // patch, size[1] // patch, self.channels).astype(self.dtype)
        block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        for i in range(self.depth):
            h = block(self.num_heads, self.dropout, self.dtype, name=f"block{i}")(h, told, train)
        shift, scale = modulation(2, told, self.channels, self.dtype, "modulation")
        h = modulated(h, shift, scale, self.dtype).astype(jnp.float32)
        out = Dense(patch**2 * self.out_channels, kernel_init=zeros, name="out")(h)
        return unpatchify(out, size, patch)

    def told(self, t: Float[Array, " batch"], condition: Float[Array, "batch size"] | None) -> Float[Array, "batch channel"]:
        """One vector of time, label and what else there is."""
        normal = nn.initializers.normal(0.02)
        h = Dense(self.channels, dtype=self.dtype, kernel_init=normal, name="time0")(sinusoids(t, FREQUENCIES))
        told = Dense(self.channels, dtype=self.dtype, kernel_init=normal, name="time1")(nn.swish(h))
        labels, others = split_condition(condition, len(t), self.num_classes)
        if self.num_classes:
            told = told + LabelEmbedding(self.channels, self.dtype, name="label")(labels)
        if others.shape[1]:
            told = told + Dense(self.channels, use_bias=False, dtype=self.dtype, name="condition")(others)
        return told


class Block(nn.Module):
    """Attention, then a perceptron; each sees its input modulated, and is added through a gate."""

    num_heads: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Tokens, told: Float[Array, "batch channel"], train: bool) -> Tokens:
        parts = modulation(6, told, x.shape[-1], self.dtype, "modulation")
        for (shift, scale, gate), layer in (
            (parts[:3], SelfAttention(self.num_heads, True, self.dtype, name="attention")),
            (parts[3:], Perceptron(self.dtype, approximate=True, name="perceptron")),
        ):
            added = nn.Dropout(self.dropout, deterministic=not train)(layer(modulated(x, shift, scale, self.dtype)))
            x = x + gate * added
        return x


def modulation(n: int, told: Float[Array, "batch channel"], channels: int, dtype: jnp.dtype, name: str) -> list[Array]:
    """n vectors for each example, zero to begin with, [b, 1, channels]."""
    out = Dense(n * channels, dtype=dtype, kernel_init=zeros, name=name)(nn.swish(told))
    return jnp.split(out[:, None], n, axis=-1)


def modulated(x: Tokens, shift: Array, scale: Array, dtype: jnp.dtype) -> Tokens:
    """Normalised, scaled and shifted."""
    norm = nn.LayerNorm(epsilon=1e-6, use_bias=False, use_scale=False, dtype=dtype)
    return norm(x) * (1 + scale) + shift
