"""DDPM++ and NCSN++, the U-Nets of Song et al. 2021 (appendix H), as Karras et al. 2022 (appendix F.2) train them.

Beside the U-Net of DDPM: blocks that resample themselves, main path and skip alike; every sum divided by sqrt(2); on the way up
attention once a level, after its last block. DDPM++ tells the time by sinusoids; NCSN++ by random Fourier features of ln sigma,
and its encoder is "residual": it adds the downsampled image at every resolution, and resamples with the filter [1, 3, 3, 1].

The authors' two networks and those of EDM are one function: with multipliers (1, 2, 2, 2) DDPM++ has 61,804,419 parameters on
32x32x3 images and NCSN++ 62,758,787, with EDM's (2, 2, 2) 55,732,739 and 56,395,523; the frequencies of NCSN++ are beside that.
1x1 convolutions are `Dense`.
"""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.nets.attention import attention
from gm_jax.nets.layers import group_norm
from gm_jax.nets.unet import FeatureMap, SinusoidalPositionEmbeddings, check_divisible, conv, dense

FOURIER_SCALE = 16.0  # standard deviation of the frequencies

small = nn.initializers.variance_scaling(1e-10, "fan_avg", "uniform")  # of layers that start next to zero
fainter = nn.initializers.variance_scaling(0.1, "fan_avg", "uniform")  # of queries, keys and values


class SongUNet(nn.Module):
    """(x [b,H,W,C], t [b] or scalar, condition [b,size] or None, train) -> float32 [b,H,W,out_channels]. Next to zero at first.

    The first `num_classes` entries of a condition are a one-hot label; what is behind them says what augmentation did.

    `channel_multipliers` gives one resolution each, halved from one to the next; H and W must be divisible by
    2^(len(channel_multipliers) - 1), else InputError. `attention_resolutions` names heights of feature maps. Weights are
    float32; `dtype` is that of the computation, but for the first and the last convolution. `remat` recomputes each block in
    the backward pass, which saves memory.
    """

    out_channels: int
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (2, 2, 2)
    num_res_blocks: int = 4
    attention_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.13
    embedding: Literal["positional", "fourier"] = "positional"
    encoder: Literal["standard", "residual"] = "standard"
    num_classes: int = 0
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: FeatureMap,
        t: Float[Array, " *batch"],
        condition: Float[Array, "batch size"] | None = None,
        train: bool = False,
    ) -> FeatureMap:
        check_divisible(x.shape[1:3], self.channel_multipliers)
        emb = self.embed(jnp.broadcast_to(t, x.shape[:1]), condition)
        res_block = nn.remat(SongBlock, static_argnums=(3,)) if self.remat else SongBlock
        last, fir = len(self.channel_multipliers) - 1, self.encoder == "residual"

        def block(h, channels, name, resample=None, attend=False):
            return res_block(channels, resample, fir, attend, self.dropout, self.dtype, name=name)(h, emb, train)

        pyramid = x
        h = conv(self.channels, name="conv_in")(x).astype(self.dtype)
        skips = [h]
        for level, multiplier in enumerate(self.channel_multipliers):
            if level > 0:
                h = block(h, h.shape[-1], f"down{level}", "down")
                if fir:
                    pyramid = conv(h.shape[-1], self.dtype, 2, padding="VALID", name=f"pyramid{level}")(smooth(pyramid))
                    h = pyramid = (pyramid + h) * math.sqrt(0.5)
                skips.append(h)
            for i in range(self.num_res_blocks):
                attend = h.shape[1] in self.attention_resolutions
                h = block(h, self.channels * multiplier, f"down{level}_block{i}", attend=attend)
                skips.append(h)

        h = block(h, h.shape[-1], "middle_block0", attend=True)
        h = block(h, h.shape[-1], "middle_block1")
        for level in reversed(range(last + 1)):
            if level < last:
                h = block(h, h.shape[-1], f"up{level}", "up")
            for i in range(self.num_res_blocks + 1):
                attend = i == self.num_res_blocks and h.shape[1] in self.attention_resolutions
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, self.channels * self.channel_multipliers[level], f"up{level}_block{i}", attend=attend)

        h = nn.swish(group_norm(h.shape[-1], self.dtype, name="norm_out")(h)).astype(jnp.float32)
        return conv(self.out_channels, kernel_init=small, name="conv_out")(h)

    def embed(self, t: Float[Array, " batch"], condition: Float[Array, "batch size"] | None) -> Float[Array, "batch embedding"]:
        """Time, label and augmentation through a two-layer perceptron."""
        if self.embedding == "positional":
            emb = SinusoidalPositionEmbeddings(self.channels)(t)
        else:
            emb = FourierFeatures(2 * self.channels, name="fourier")(t)
        if condition is not None:
            labels, told = jnp.split(condition, [self.num_classes], axis=1)
            if self.num_classes:
                emb = emb + dense(emb.shape[-1], self.dtype, name="label")(labels * math.sqrt(self.num_classes))
            if told.shape[1]:
                emb = emb + dense(emb.shape[-1], self.dtype, use_bias=False, name="augmentation")(told)
        for name in ("dense0", "dense1"):
            emb = nn.swish(dense(4 * self.channels, self.dtype, name=name)(emb))
        return emb


class FourierFeatures(nn.Module):
    """[b] -> [b, dim]: sines, then cosines, of 2 pi f t with frequencies f ~ N(0, FOURIER_SCALE^2), which are never trained.

    They are a parameter all the same, without gradient, so that they are kept with the weights (Tancik et al. 2020).
    """

    dim: int

    @nn.compact
    def __call__(self, t: Float[Array, " batch"]) -> Float[Array, "batch dim"]:
        frequencies = self.param("frequencies", nn.initializers.normal(FOURIER_SCALE), (self.dim // 2,))
        angles = 2 * math.pi * t.astype(jnp.float32)[:, None] * jax.lax.stop_gradient(frequencies)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class SongBlock(nn.Module):
    """Norm, swish, 3x3 convolution, twice, the first behind what resamples; then self-attention, where asked for.

    Both sums are divided by sqrt(2). `resample`: "up", "down" or None; the skip then is a 1x1 convolution, too.
    """

    channels: int
    resample: str | None
    fir: bool
    attend: bool
    dropout: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: FeatureMap, emb: Float[Array, "batch embedding"], train: bool) -> FeatureMap:
        resample = {"up": double, "down": half, None: lambda x, fir: x}[self.resample]
        h = resample(nn.swish(group_norm(x.shape[-1], self.dtype, name="norm0")(x)), self.fir)
        h = conv(self.channels, self.dtype, name="conv0")(h)
        h = h + dense(self.channels, self.dtype, name="embedding")(emb)[:, None, None, :]
        h = nn.swish(group_norm(self.channels, self.dtype, name="norm1")(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv(self.channels, self.dtype, kernel_init=small, name="conv1")(h)
        if self.resample or x.shape[-1] != self.channels:
            x = dense(self.channels, self.dtype, name="shortcut")(resample(x, self.fir))
        h = (x + h) * math.sqrt(0.5)
        return (h + self.attention(h)) * math.sqrt(0.5) if self.attend else h

    def attention(self, x: FeatureMap) -> FeatureMap:
        """Self-attention over the pixels, in one head."""
        batch, height, width, channels = x.shape
        h = group_norm(channels, self.dtype, name="norm2")(x).reshape(batch, height * width, channels)
        query, key, value = (dense(channels, self.dtype, fainter, name=name)(h) for name in ("query", "key", "value"))
        return dense(channels, self.dtype, small, name="out")(attention(query, key, value)).reshape(x.shape)


# --- resampling ---------------------------------------------------------------------------------------------------------------


def half(x: FeatureMap, fir: bool) -> FeatureMap:
    """Half the height and width: the mean of 2x2 pixels, or filtered by [1, 3, 3, 1] / 8 along either axis, zeros around."""
    for axis in (1, 2):
        x = _half_fir(x, axis) if fir else (_every_other(x, axis, 0) + _every_other(x, axis, 1)) / 2
    return x


def smooth(x: FeatureMap) -> Float[Array, "batch height+1 width+1 channel"]:
    """Filtered by [1, 3, 3, 1] / 8 along either axis, zeros around: from there every other pixel of a 3x3 convolution."""
    for axis in (1, 2):
        padded, size = jnp.pad(x, [(2, 2) if i == axis else (0, 0) for i in range(x.ndim)]), x.shape[axis] + 1
        a, b, c, d = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(4))
        x = (a + d + 3 * (b + c)) / 8
    return x


def double(x: FeatureMap, fir: bool) -> FeatureMap:
    """Twice the height and width: repeated pixels, or filtered by [1, 3, 3, 1] / 4 along either axis, zeros around."""
    for axis in (1, 2):
        x = _double_fir(x, axis) if fir else x.repeat(2, axis=axis)
    return x


def _half_fir(x, axis):
    even, odd = _every_other(x, axis, 0), _every_other(x, axis, 1)
    return (3 * (even + odd) + _shifted(odd, axis, 1) + _shifted(even, axis, -1)) / 8


def _double_fir(x, axis):
    even, odd = 3 * x + _shifted(x, axis, 1), 3 * x + _shifted(x, axis, -1)
    pairs = jnp.stack([even, odd], axis=axis + 1) / 4
    return pairs.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])


def _every_other(x, axis, first):
    return jax.lax.slice_in_dim(x, first, None, 2, axis)


def _shifted(x, axis, by):
    """Moved by one pixel up (1) or down (-1) the axis, a zero coming in."""
    edge = [(0, 0)] * x.ndim
    edge[axis] = (1, 0) if by == 1 else (0, 1)
    first = 0 if by == 1 else 1
    return jax.lax.slice_in_dim(jnp.pad(x, edge), first, first + x.shape[axis], axis=axis)
