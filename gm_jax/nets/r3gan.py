"""Generator and discriminator of R3GAN (Huang et al. 2024, "The GAN is dead; long live the GAN! A modern baseline GAN",
https://arxiv.org/abs/2501.05441, sections 3.3 and 3.4, configuration E).

Both are stages of inverted bottlenecks with grouped 3x3 convolutions (ResNeXt), at 4x4 pixels and every doubling of it, mirror
images of one another. Nothing is normalised: as in Fixup (Zhang et al. 2019), the last convolution of a block starts at zero,
and the others are fainter the more blocks there are. 1x1 convolutions are `Dense`. For 32x32x3 images and ten classes the
generator has 20,781,952 parameters, the discriminator 21,280,512; without labels 20,732,160 and 20,683,776.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gm_jax.errors import InputError
from gm_jax.nets.layers import Dense
from gm_jax.nets.song_unet import double, half

Images = Float[Array, "batch height width channel"]
Labels = Int[Array, " batch"]

LOWEST = 4  # pixels a side
SLOPE = 0.2  # of leaky ReLU below zero
GAIN = math.sqrt(2 / (1 + SLOPE**2))  # keeps the variance through leaky ReLU (He et al. 2015)


class Generator(nn.Module):
    """(z [b, features] standard normal, labels [b] or None) -> float32 [b, H, W, C], meant for [-1, 1] but not held there.

    At 4x4 a learned picture of each channel is scaled by a linear function of z and, where there are `num_classes`, of
    `class_features` numbers a class. `groups` divide the `expansion * channels` channels of a grouped convolution. Weights are
    float32; `dtype` is that of the computation above 4x4. `remat` recomputes each block in the backward pass, which saves
    memory.

    Raises InputError for images that are not square with a side of 4, 8, 16 ..., for groups that do not divide the channels,
    and for labels where there are no classes or none where there are.
    """

    image_shape: tuple[int, int, int]
    num_classes: int | None = None
    channels: int = 768
    num_res_blocks: int = 2
    groups: int = 96
    expansion: int = 2
    class_features: int = 64
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "batch features"], labels: Labels | None = None) -> Images:
        last = num_stages(self.image_shape)
        block = block_of(self, last)
        if check_labels(labels, self.num_classes):
            embedding = bare(self.class_features, msr(), name="label")(jax.nn.one_hot(labels, self.num_classes))
            z = jnp.concatenate([z, embedding], axis=1)
        basis = self.param("basis", nn.initializers.normal(1.0), (LOWEST, LOWEST, self.channels))
        h = basis * bare(self.channels, msr(), name="latent")(z)[:, None, None, :]
        for stage in range(last):
            if stage:
                h = double(h.astype(self.dtype), fir=True)
            for i in range(self.num_res_blocks):
                h = block(stage == 0, f"stage{stage}_block{i}")(h)
        return bare(self.image_shape[-1], msr(), h.dtype, name="image")(h).astype(jnp.float32)


class Discriminator(nn.Module):
    """(x [b, H, W, C] in [-1, 1], labels [b] or None) -> float32 scores [b], higher for what looks real.

    At 4x4 a learned sum over each channel's pixels gives as many numbers as there are channels; the score is a linear function
    of them, with labels their product with a vector of the class behind a matrix (projection, Miyato & Koyama 2018, but
    without its unconditional term). Settings and errors are the generator's.
    """

    num_classes: int | None = None
    channels: int = 768
    num_res_blocks: int = 2
    groups: int = 96
    expansion: int = 2
    remat: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Images, labels: Labels | None = None) -> Float[Array, " batch"]:
        last = num_stages(x.shape[1:])
        block = block_of(self, last)
        conditional = check_labels(labels, self.num_classes)
        h = bare(self.channels, msr(), self.dtype if last > 1 else jnp.float32, name="image")(x)
        for stage in reversed(range(last)):
            for i in range(self.num_res_blocks):
                h = block(stage == 0, f"stage{stage}_block{i}")(h)
            if stage:
                h = half(h, fir=True)
        basis = self.param("basis", nn.initializers.normal(1 / LOWEST), (LOWEST, LOWEST, self.channels))
        features = (basis * h.astype(jnp.float32)).sum((1, 2))
        if not conditional:
            return bare(1, msr(), name="score")(features)[:, 0]
        features = bare(self.channels, msr(), name="features")(features)
        init = msr(1 / math.sqrt(self.channels))
        return (features * bare(self.channels, init, name="label")(jax.nn.one_hot(labels, self.num_classes))).sum(1)


class ResidualBlock(nn.Module):
    """x + what a 1x1, a grouped 3x3 and a 1x1 convolution make of it, with biases and leaky ReLU between; x to begin with.

    `depth` is the number L of blocks in the network: the first two convolutions start L^(-1/4) times as strong as He et al.'s.
    """

    depth: int
    groups: int
    expansion: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Images) -> Images:
        channels, init = x.shape[-1], msr(GAIN * self.depth**-0.25)
        wide = self.expansion * channels
        h = Dense(wide, dtype=self.dtype, kernel_init=init, name="in")(x)
        h = nn.Conv(
            wide,
            (3, 3),
            feature_group_count=self.groups,
            dtype=self.dtype,
            kernel_init=init,
            conv_general_dilated=conv_general_dilated,
            name="grouped",
        )(nn.leaky_relu(h, SLOPE))
        return x + bare(channels, nn.initializers.zeros, self.dtype, name="out")(nn.leaky_relu(h, SLOPE))


def block_of(net: Generator | Discriminator, stages: int) -> Callable[[bool, str], ResidualBlock]:
    """(is it at 4x4, which is in float32 always; name) -> a block with the settings of `net`."""
    if net.expansion * net.channels % net.groups:
        wide = f"expansion * channels = {net.expansion * net.channels}"
        raise InputError(
            f"groups={net.groups} does not divide {wide}; take {math.gcd(net.expansion * net.channels, net.groups)}"
        )
    block, depth = nn.remat(ResidualBlock) if net.remat else ResidualBlock, stages * net.num_res_blocks
    return lambda lowest, name: block(depth, net.groups, net.expansion, jnp.float32 if lowest else net.dtype, name=name)


def bare(channels: int, kernel_init: Callable, dtype: jnp.dtype = jnp.float32, name: str | None = None) -> nn.Dense:
    """A dense layer without bias."""
    return Dense(channels, use_bias=False, dtype=dtype, kernel_init=kernel_init, name=name)


def msr(gain: float = 1.0) -> Callable:
    """Normal weights with the standard deviation gain / sqrt(fan in) (He et al. 2015)."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


def num_stages(image_shape: Sequence[int]) -> int:
    """1 for 4x4 pixels, one more for every doubling of the side. Raises InputError for other sizes."""
    height, width, _ = image_shape
    if height != width or height < LOWEST or height & (height - 1):
        raise InputError(f"R3GAN makes images with sides of 4, 8, 16, 32 ..., not of {height}x{width}: resize them")
    return (height // LOWEST).bit_length()


def check_labels(labels: Labels | None, num_classes: int | None) -> bool:
    """Whether there are labels. Raises InputError where that is not what `num_classes` says."""
    if (labels is None) != (num_classes is None):
        raise InputError(f"num_classes is {num_classes}, so labels are {'not taken' if num_classes is None else 'needed'}")
    return labels is not None


# --- grouped convolution ------------------------------------------------------------------------------------------------------


def conv_general_dilated(x: Images, kernel: Array, *window: Any, **settings: Any) -> Images:
    """`jax.lax.conv_general_dilated` as `ResidualBlock` calls it, on a CPU by `grouped_conv`.

    There XLA's own takes hundreds of times as long for the gradients: 48 s for 8 images of 16x16x1536, instead of 0.13 s.
    """
    if jax.default_backend() == "cpu":
        return grouped_conv(x, kernel)
    return jax.lax.conv_general_dilated(x, kernel, *window, **settings)


def grouped_conv(x: Images, kernel: Float[Array, "3 3 channel_of_group out"]) -> Float[Array, "batch height width out"]:
    """The 3x3 convolution within a border of zeros, in channel / channel_of_group groups: nine matrix products for each."""
    (batch, height, width, _), each = x.shape, kernel.shape[2]
    kernels = kernel.reshape(3, 3, each, -1, kernel.shape[3] * each // x.shape[3]).transpose(0, 1, 3, 2, 4)
    x = x.reshape(batch, height, width, -1, each).transpose(3, 0, 1, 2, 4)
    x = jnp.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    seen = lambda i, j: x[:, :, i : i + height, j : j + width].reshape(len(x), -1, each)  # noqa: E731
    y = sum(seen(i, j) @ kernels[i, j] for i in range(3) for j in range(3))
    return y.reshape(-1, batch, height, width, kernels.shape[-1]).transpose(1, 2, 3, 0, 4).reshape(batch, height, width, -1)
