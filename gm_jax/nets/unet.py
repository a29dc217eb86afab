"""The U-Net of Ho et al. 2020 (DDPM, appendix B): residual blocks with GroupNorm and swish that are told the time,
self-attention at chosen resolutions and in the middle, strided convolutions down, nearest-neighbour upsampling and
convolutions up.

With its defaults it has 35,746,307 parameters on 32x32x3 images, those of the paper's CIFAR-10 model. 1x1 convolutions are
`Dense`: the same parameters, and faster.

The code of Nichol & Dhariwal 2021 (improved DDPM, later ADM), from which much else comes, has the same network but for three
constants: `variant="adm"` is that very function.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.errors import InputError
from gm_jax.nets.attention import attention
from gm_jax.nets.layers import Dense, group_norm, upsample_nearest
from gm_jax.nets.winograd import conv_general_dilated

FeatureMap = Float[Array, "batch height width channel"]

uniform_fan_avg = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")  # the initialisation of the authors' code
zeros = nn.initializers.zeros


class Constants(NamedTuple):
    """In which the codes of DDPM and of ADM differ."""

    eps: float  # of the norms
    padding: str | tuple[tuple[int, int], ...]  # of strided convolutions
    reaches_end: bool  # is the lowest frequency that tells the time 1/10000, or the next one above?


CONSTANTS = {
    "ddpm": Constants(1e-6, "SAME", True),
    "adm": Constants(1e-5, ((1, 1), (1, 1)), False),
}


class UNet(nn.Module):
    """(x [b,H,W,C], t [b] or scalar, condition [b,size] or None, train) -> float32 [b,H,W,out_channels]. All zeros at first.

    A condition (a one-hot label, say) is added to the time embedding through a matrix of its own, without bias. With
    `scale_shift` the embedding scales and shifts what the second norm of a block gives, instead of being added before it.

    `channel_multipliers` gives one resolution each, halved from one to the next; H and W must be divisible by
    2^(len(channel_multipliers) - 1), else InputError. `attention_resolutions` names heights of feature maps. Weights are
    float32; `dtype` is that of the computation, but for the first and the last convolution: x_t and eps deserve more than 8
    bits. `remat` recomputes each residual block in the backward pass, which saves memory.
    """

    out_channels: int
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    remat: bool = False
    num_heads: int = 1
    scale_shift: bool = False
    variant: Literal["ddpm", "adm"] = "ddpm"
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
        eps, padding, reaches_end = CONSTANTS[self.variant]
        emb = TimeEmbedding(self.channels, self.dtype, reaches_end, name="time")(jnp.broadcast_to(t, x.shape[:1]))
        if condition is not None:
            emb = emb + nn.Dense(emb.shape[-1], use_bias=False, dtype=self.dtype, name="condition")(condition)
        res_block = nn.remat(ResBlock, static_argnums=(3,)) if self.remat else ResBlock
        last = len(self.channel_multipliers) - 1

        def block(h, level, name):
            channels = self.channels * self.channel_multipliers[level]
            h = res_block(channels, self.dropout, self.dtype, self.scale_shift, eps, name=name)(h, emb, train)
            attend = h.shape[1] in self.attention_resolutions
            return AttentionBlock(self.dtype, self.num_heads, eps, name=f"{name}_attention")(h) if attend else h

        h = conv(self.channels, name="conv_in")(x).astype(self.dtype)
        skips = [h]
        for level in range(last + 1):
            for i in range(self.num_res_blocks):
                h = block(h, level, f"down{level}_block{i}")
                skips.append(h)
            if level < last:
                h = conv(h.shape[-1], self.dtype, strides=2, padding=padding, name=f"down{level}_downsample")(h)
                skips.append(h)

        middle = h.shape[-1]
        h = res_block(middle, self.dropout, self.dtype, self.scale_shift, eps, name="middle_block0")(h, emb, train)
        h = AttentionBlock(self.dtype, self.num_heads, eps, name="middle_attention")(h)
        h = res_block(middle, self.dropout, self.dtype, self.scale_shift, eps, name="middle_block1")(h, emb, train)

        for level in reversed(range(last + 1)):
            for i in range(self.num_res_blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), level, f"up{level}_block{i}")
            if level > 0:
                h = conv(h.shape[-1], self.dtype, name=f"up{level}_upsample")(upsample_nearest(h))

        h = nn.swish(group_norm(h.shape[-1], self.dtype, eps=eps, name="norm_out")(h)).astype(jnp.float32)
        return conv(self.out_channels, kernel_init=zeros, name="conv_out")(h)


class SinusoidalPositionEmbeddings(nn.Module):
    """[b] times, in the units of DDPM's steps -> [b, dim]: sines, then cosines, of geometric frequencies from 1 to 1/10000.

    Vaswani et al. 2017, section 3.5, in the layout of the code of Ho et al. 2020. `dim` is even and at least 4. With
    `reaches_end` off the frequencies lie a little closer, and end before 1/10000.
    """

    dim: int
    reaches_end: bool = True

    @nn.compact
    def __call__(self, t: Float[Array, " batch"]) -> Float[Array, "batch dim"]:
        half = self.dim // 2
        frequencies = jnp.exp(-math.log(10000) / (half - self.reaches_end) * jnp.arange(half))
        angles = t.astype(jnp.float32)[:, None] * frequencies
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class TimeEmbedding(nn.Module):
    """Sinusoids through a two-layer perceptron, four times as wide."""

    channels: int
    dtype: jnp.dtype
    reaches_end: bool = True

    @nn.compact
    def __call__(self, t: Float[Array, " batch"]) -> Float[Array, "batch 4*channels"]:
        emb = SinusoidalPositionEmbeddings(self.channels, self.reaches_end)(t)
        emb = nn.swish(dense(4 * self.channels, self.dtype, name="dense0")(emb))
        return dense(4 * self.channels, self.dtype, name="dense1")(emb)


class ResBlock(nn.Module):
    """Norm, swish, 3x3 convolution, twice, with the time embedding added in between; the second convolution starts at zero."""

    channels: int
    dropout: float
    dtype: jnp.dtype
    scale_shift: bool = False
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: FeatureMap, emb: Float[Array, "batch embedding"], train: bool) -> FeatureMap:
        h = nn.swish(group_norm(x.shape[-1], self.dtype, eps=self.eps, name="norm0")(x))
        h = conv(self.channels, self.dtype, name="conv0")(h)
        told = dense((1 + self.scale_shift) * self.channels, self.dtype, name="time")(nn.swish(emb))[:, None, None, :]
        norm = group_norm(self.channels, self.dtype, eps=self.eps, name="norm1")
        if self.scale_shift:
            scale, shift = jnp.split(told, 2, axis=-1)
            h = nn.swish(norm(h) * (1 + scale) + shift)
        else:
            h = nn.swish(norm(h + told))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv(self.channels, self.dtype, kernel_init=zeros, name="conv1")(h)
        if x.shape[-1] != self.channels:
            x = dense(self.channels, self.dtype, name="shortcut")(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over the pixels of a feature map: pre-norm, residual; the output projection starts at zero."""

    dtype: jnp.dtype = jnp.float32
    num_heads: int = 1
    eps: float = 1e-6

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        batch, height, width, channels = x.shape
        h = group_norm(channels, self.dtype, eps=self.eps, name="norm")(x).reshape(batch, height * width, channels)
        query, key, value = (dense(channels, self.dtype, name=name)(h) for name in ("query", "key", "value"))
        heads = (split_heads(a, self.num_heads) for a in (query, key, value))
        h = dense(channels, self.dtype, kernel_init=zeros, name="out")(merge_heads(attention(*heads), self.num_heads))
        return x + h.reshape(x.shape)


def split_heads(x: Float[Array, "batch n channel"], heads: int) -> Float[Array, "batch*heads n channel/heads"]:
    """Heads as examples of their own."""
    batch, n, channels = x.shape
    return x.reshape(batch, n, heads, channels // heads).swapaxes(1, 2).reshape(batch * heads, n, channels // heads)


def merge_heads(x: Float[Array, "batch*heads n channel/heads"], heads: int) -> Float[Array, "batch n channel"]:
    """The inverse of `split_heads`."""
    n, channels = x.shape[1:]
    return x.reshape(-1, heads, n, channels).swapaxes(1, 2).reshape(-1, n, heads * channels)


def conv(
    channels: int,
    dtype: jnp.dtype = jnp.float32,
    strides: int = 1,
    kernel_init: Callable = uniform_fan_avg,
    padding: str | Sequence[tuple[int, int]] = "SAME",
    name: str | None = None,
) -> nn.Conv:
    """A 3x3 convolution; without `dtype` in float32."""
    return nn.Conv(
        channels,
        (3, 3),
        strides=strides,
        padding=padding,
        dtype=dtype,
        kernel_init=kernel_init,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def dense(
    channels: int,
    dtype: jnp.dtype,
    kernel_init: Callable = uniform_fan_avg,
    use_bias: bool = True,
    name: str | None = None,
) -> nn.Dense:
    """A dense layer over the last axis, which on feature maps is a 1x1 convolution."""
    return Dense(channels, use_bias=use_bias, dtype=dtype, kernel_init=kernel_init, name=name)


def fitting_multipliers(size: tuple[int, int], channel_multipliers: tuple[int, ...]) -> tuple[int, ...]:
    """As many of `channel_multipliers`, from the first, as there are resolutions between which both sides can be halved."""
    most = len(channel_multipliers)
    fitting = next(n for n in range(most, 0, -1) if size[0] % 2 ** (n - 1) == 0 and size[1] % 2 ** (n - 1) == 0)
    return tuple(channel_multipliers[:fitting])


def check_divisible(size: tuple[int, int], channel_multipliers: tuple[int, ...]) -> None:
    """InputError unless both sides can be halved between the resolutions of `channel_multipliers`."""
    fitting = fitting_multipliers(size, channel_multipliers)
    if len(fitting) < len(channel_multipliers):
        raise InputError(
            f"images of {size[0]}x{size[1]} cannot be halved {len(channel_multipliers) - 1} times; take fewer "
            f"channel_multipliers than {tuple(channel_multipliers)}, such as {','.join(map(str, fitting))}"
        )
