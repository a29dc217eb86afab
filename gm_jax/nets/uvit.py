"""U-ViT (Bao et al. 2023, https://arxiv.org/abs/2209.12152): a plain Transformer with the long skips of a U-Net.

Time and label are tokens beside those of the patches (section 3.1); a block of the second half sees, joined to its input, what
the one of the same depth in the first half gave.
"""

from functools import partial

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
    sinusoids,
    split_condition,
    unpatchify,
)

normal = nn.initializers.truncated_normal(0.02)


class UViT(nn.Module):
    """(x [b, h, w, c], t [b] or scalar, condition [b, size] or None) -> float32 [b, h, w, out_channels].

    The first `num_classes` entries of the condition are a one-hot label, or zeros; the others are what augmentation did, told
    with the time. `depth` is odd. `dropout` is of what attention and perceptron add, `remat` recomputes each block in the
    backward pass, which saves memory.
    """

    out_channels: int
    channels: int = 512
    depth: int = 13
    num_heads: int = 8
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
        tokens = Dense(self.channels, dtype=self.dtype, name="patches")(patchify(x, patch))
        told = self.told(jnp.broadcast_to(t, x.shape[:1]), condition)
        h = jnp.concatenate([*(token[:, None] for token in told), tokens], axis=1)
        h = h + self.param("positions", normal, (1, *h.shape[1:])).astype(self.dtype)
        block_of = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        block = partial(block_of, self.num_heads, self.dropout, self.dtype)
        half, skips = self.depth // 2, []
        for i in range(half):
            h = block(name=f"in{i}")(h, train)
            skips.append(h)
        h = block(name="middle")(h, train)
        for i in range(half):
            joined = jnp.concatenate([h, skips.pop()], axis=-1)
            h = Dense(self.channels, dtype=self.dtype, kernel_init=normal, name=f"skip{i}")(joined)
            h = block(name=f"out{i}")(h, train)
        h = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(h).astype(jnp.float32)
        h = Dense(patch**2 * self.out_channels, kernel_init=normal, name="decode")(h[:, len(told) :])
        return nn.Conv(self.out_channels, (3, 3), name="conv_out")(unpatchify(h, size, patch))

    def told(self, t: Float[Array, " batch"], condition: Float[Array, "batch size"] | None) -> list[Array]:
        """The tokens of the label, if there are labels, and of the time."""
        time = sinusoids(t, self.channels).astype(self.dtype)
        labels, others = split_condition(condition, len(t), self.num_classes)
        if others.shape[1]:
            time = time + Dense(self.channels, use_bias=False, dtype=self.dtype, name="condition")(others)
        if not self.num_classes:
            return [time]
        return [LabelEmbedding(self.channels, self.dtype, name="label")(labels), time]


class Block(nn.Module):
    """Attention, then a perceptron, each of the normalised tokens and added to them."""

    num_heads: int
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Tokens, train: bool) -> Tokens:
        added = SelfAttention(self.num_heads, False, self.dtype, name="attention")(norm("norm0", self.dtype)(x))
        x = x + nn.Dropout(self.dropout, deterministic=not train)(added)
        added = Perceptron(self.dtype, approximate=False, name="perceptron")(norm("norm1", self.dtype)(x))
        return x + nn.Dropout(self.dropout, deterministic=not train)(added)


def norm(name: str, dtype: jnp.dtype) -> nn.LayerNorm:
    """With the epsilon of the authors."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)
