"""The score networks of Song & Ermon: a RefineNet (Lin et al. 2017) with dilated convolutions, ELU and InstanceNorm++.

Residual blocks see the image at full resolution, then at half of it with growing dilation; a cascade of refinement blocks
merges their outputs from the deepest to the first. NCSN (2019, appendix A) gives every noise level an affine map of its own
after each normalisation. NCSNv2 (2020) has one for all, and no normalisation in the refinement blocks, which pool by maximum.
On 32x32x3 images they have 30,117,635 (with 10 levels) and 29,694,083 parameters, those of the authors' code.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.errors import InputError
from gm_jax.nets.unet import check_divisible
from gm_jax.nets.winograd import conv_general_dilated

FeatureMap = Float[Array, "batch height width channel"]
Levels = Float[Array, "batch level"]  # a row: weights of the noise levels, summing to 1

fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # as the authors' kernels; biases begin at 0


class RefineNet(nn.Module):
    """(x [b,H,W,C], level [b] or scalar) -> float32 [b,H,W,out_channels].

    With `num_levels`, `level` in [0, num_levels - 1] chooses the affine maps; between whole numbers they are interpolated.
    Without, `level` is ignored: the network is NCSNv2's. One stage per channel multiplier; from the second on they run at half
    resolution, so H and W must be even, else InputError. Weights are float32; `dtype` is that of the computation, but for the
    first and the last convolution.

    `authors`: the very function of the authors' PyTorch code, whose weights can then be loaded: it interpolates with aligned
    corners, and divides the variance of the channels' means by their number less one. Otherwise both are as in the first
    author's later JAX code (score_sde).
    """

    out_channels: int
    channels: int = 128
    channel_multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    num_levels: int | None = None
    authors: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: FeatureMap,
        level: Float[Array, " *batch"],
        condition: Float[Array, "batch size"] | None = None,
        train: bool = False,
    ) -> FeatureMap:
        if condition is not None:
            raise InputError("network refinenet takes no labels; set class_conditional=False, or take unet")
        check_divisible(x.shape[1:3], self.channel_multipliers[:2])
        conditional = self.num_levels is not None
        levels = level_weights(jnp.broadcast_to(level, x.shape[:1]) if conditional else jnp.zeros(len(x)), self.num_levels or 1)
        widths = [self.channels * multiplier for multiplier in self.channel_multipliers]

        h = conv(self.channels, name="conv_in")(x)
        features = []
        for stage, width in enumerate(widths):
            for i in range(self.num_res_blocks):
                down, dilation = stage > 0 and i == 0, 2 ** max(0, stage - 1)
                block = ResidualBlock(width, down, dilation, self.authors, self.dtype, name=f"stage{stage}_block{i}")
                h = block(h, levels)
            features.append(h)

        h = None
        for stage in reversed(range(len(widths))):
            inputs = features[stage : stage + 1] + ([] if h is None else [h])
            width = widths[stage] if h is None else widths[max(stage - 1, 0)]
            units = 3 if stage == 0 else 1
            block = RefineBlock(width, units, conditional, self.authors, self.dtype, name=f"refine{stage}")
            h = block(inputs, levels)

        h = nn.elu(InstanceNormPlus(self.authors, self.dtype, name="norm_out")(h, levels)).astype(jnp.float32)
        return conv(self.out_channels, name="conv_out")(h)


def level_weights(level: Float[Array, " batch"], num_levels: int) -> Levels:
    """One-hot rows at whole levels, linear between them; levels outside [0, num_levels - 1] are clipped."""
    level = jnp.clip(level, 0, num_levels - 1)
    return jnp.maximum(0, 1 - jnp.abs(level[:, None] - jnp.arange(num_levels)))


class InstanceNormPlus(nn.Module):
    """Conditional InstanceNorm++ (Song & Ermon 2019, appendix A): gamma (instance norm(x) + delta m) + beta.

    m are the channels' means, normalised over the channels of an image: what instance normalisation takes away. gamma, delta
    (both about 1 at first) and beta belong to the noise level. Statistics are float32. `authors`: see `RefineNet`.
    """

    authors: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap, levels: Levels) -> FeatureMap:
        shape = (levels.shape[-1], x.shape[-1])
        near_one = lambda key, shape: 1 + 0.02 * jax.random.normal(key, shape)  # noqa: E731
        tables = [self.param("gamma", near_one, shape), self.param("delta", near_one, shape)]
        tables.append(self.param("beta", nn.initializers.zeros, shape))
        # whole levels pick rows: not with a GPU's reduced precision
        gamma, delta, beta = (jnp.matmul(levels, table, precision="highest")[:, None, None] for table in tables)

        x = x.astype(jnp.float32)
        mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
        m = (mean - mean.mean(-1, keepdims=True)) / jnp.sqrt(mean.var(-1, keepdims=True, ddof=self.authors) + 1e-5)
        normalised = (x - mean) / jnp.sqrt(variance + 1e-5)
        return (gamma * (normalised + delta * m) + beta).astype(self.dtype)


class ResidualBlock(nn.Module):
    """Norm, ELU, 3x3 convolution, twice, beside a shortcut. `down` changes the resolution: it halves it, unless dilated.

    A dilated block keeps the resolution and widens its view instead, also that of its shortcut where it is `down`.
    """

    channels: int
    down: bool
    dilation: int
    authors: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: FeatureMap, levels: Levels) -> FeatureMap:
        halve = self.down and self.dilation == 1
        h = nn.elu(InstanceNormPlus(self.authors, self.dtype, name="norm0")(x, levels))
        h = conv(x.shape[-1] if self.down else self.channels, self.dtype, self.dilation, name="conv0")(h)
        h = nn.elu(InstanceNormPlus(self.authors, self.dtype, name="norm1")(h, levels))
        h = conv(self.channels, self.dtype, self.dilation, name="conv1")(h)
        if self.down or x.shape[-1] != self.channels:
            kernel = 1 if self.dilation == 1 else 3
            x = conv(self.channels, self.dtype, self.dilation, kernel=kernel, name="shortcut")(x)
        return nn.avg_pool(x + h, (2, 2), (2, 2)) if halve else x + h


class RefineBlock(nn.Module):
    """Merges feature maps of one or two resolutions at that of the first: residual units, fusion, chained pooling, residual
    units (Lin et al. 2017, section 3.2).
    """

    channels: int
    output_units: int
    conditional: bool  # normalise, one affine map a level, and pool by mean; else neither
    authors: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: list[FeatureMap], levels: Levels) -> FeatureMap:
        def norm(x, name):
            return InstanceNormPlus(self.authors, self.dtype, name=f"{name}_norm")(x, levels) if self.conditional else x

        def residual_units(x, count, name):
            for unit in range(count):
                h = x
                for i in range(2):
                    h = nn.elu(norm(h, f"{name}_unit{unit}_{i}"))
                    h = conv(x.shape[-1], self.dtype, use_bias=False, name=f"{name}_unit{unit}_{i}")(h)
                x = x + h
            return x

        inputs = [residual_units(x, 2, f"input{i}") for i, x in enumerate(inputs)]
        h = inputs[0]
        if len(inputs) > 1:
            resize = resize_aligned if self.authors else partial(jax.image.resize, method="bilinear")
            parts = [conv(self.channels, self.dtype, name=f"fuse{i}")(norm(x, f"fuse{i}")) for i, x in enumerate(inputs)]
            h = sum(resize(x, (*h.shape[:3], self.channels)) for x in parts)

        h = pooled = nn.elu(h)
        pool = nn.avg_pool if self.conditional else nn.max_pool
        for i in range(2):
            pooled = pool(norm(pooled, f"pool{i}"), (5, 5), padding="SAME")
            pooled = conv(self.channels, self.dtype, use_bias=False, name=f"pool{i}")(pooled)
            h = h + pooled
        return residual_units(h, self.output_units, "output")


def resize_aligned(x: FeatureMap, shape: tuple[int, ...]) -> FeatureMap:
    """Bilinear interpolation to height and width of `shape` that keeps the corners where they are (PyTorch's align_corners)."""

    def matrix(size: int, new: int) -> np.ndarray:
        at = np.linspace(0, size - 1, new)
        low = np.minimum(at.astype(int), max(size - 2, 0))
        weights = np.zeros((new, size), np.float32)
        np.add.at(weights, (np.arange(new), low), 1 - (at - low))
        np.add.at(weights, (np.arange(new), np.minimum(low + 1, size - 1)), at - low)
        return weights

    rows, columns = matrix(x.shape[1], shape[1]), matrix(x.shape[2], shape[2])
    return jnp.einsum("bhwc,Hh,Ww->bHWc", x, rows.astype(x.dtype), columns.astype(x.dtype), precision="highest")


def conv(
    channels: int,
    dtype: jnp.dtype = jnp.float32,
    dilation: int = 1,
    kernel: int = 3,
    use_bias: bool = True,
    name: str | None = None,
) -> nn.Conv:
    """A convolution that keeps the resolution; without `dtype` in float32."""
    return nn.Conv(
        channels,
        (kernel, kernel),
        kernel_dilation=dilation,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=fan_in_uniform,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )
