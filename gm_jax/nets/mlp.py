"""Perceptrons for points: a denoiser that is told the time, and plain ones."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.nets.unet import SinusoidalPositionEmbeddings


class MLP(nn.Module):
    """[batch, *] -> [batch, features], float32: `depth` hidden layers of `width`."""

    features: int
    width: int = 128
    depth: int = 3
    dtype: jnp.dtype = jnp.float32
    activation: Callable[[Array], Array] = nn.swish

    @nn.compact
    def __call__(self, x: Float[Array, "batch *shape"]) -> Float[Array, "batch features"]:
        h = x.reshape(len(x), -1)
        for _ in range(self.depth):
            h = self.activation(nn.Dense(self.width, dtype=self.dtype)(h))
        return nn.Dense(self.features, dtype=self.dtype)(h).astype(jnp.float32)


class TimeMLP(nn.Module):
    """(x [b, dim], t [b] or scalar, condition [b, size] or None) -> float32 [b, dim]: residual layers, each told the time.

    All zeros at initialisation, as the U-Net. `channels` is even and at least 4. `out_channels`: of the answer, if not dim.
    """

    channels: int = 128
    depth: int = 4
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    out_channels: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch dim"],
        t: Float[Array, " *batch"],
        condition: Float[Array, "batch size"] | None = None,
        train: bool = False,
    ) -> Float[Array, "batch dim"]:
        emb = SinusoidalPositionEmbeddings(self.channels)(jnp.broadcast_to(t, x.shape[:1]))
        emb = nn.Dense(self.channels, dtype=self.dtype, name="time")(emb)
        if condition is not None:
            emb = emb + nn.Dense(self.channels, use_bias=False, dtype=self.dtype, name="condition")(condition)
        h = nn.Dense(self.channels, dtype=self.dtype, name="in")(x)
        for i in range(self.depth):
            r = nn.Dense(self.channels, dtype=self.dtype, name=f"block{i}_0")(nn.swish(h + emb))
            r = nn.Dropout(self.dropout, deterministic=not train)(nn.swish(r))
            h = h + nn.Dense(self.channels, dtype=self.dtype, name=f"block{i}_1")(r)
        out, zeros = self.out_channels or x.shape[-1], nn.initializers.zeros
        return nn.Dense(out, kernel_init=zeros, dtype=self.dtype, name="out")(nn.swish(h)).astype(jnp.float32)
