"""Generators and critics of the convolutional GANs up to BigGAN, as Flax modules.

    DCGAN     Radford et al. 2016, in the sizes of Miyato et al. 2018, table 3
    residual  Gulrajani et al. 2017, appendix F; Miyato et al. 2018, table 4; Brock et al. 2019, appendix B

Labels enter a generator through the scales and shifts of its BatchNorm (Dumoulin et al. 2017) and a critic as a projection: the
inner product of its features with a vector for the label (Miyato & Koyama 2018); or both as further inputs ("concatenation":
Mirza & Osindero 2014), which the modules here know nothing of.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gm_jax.nets.layers import upsample_nearest

Feature = Float[Array, "batch height width channel"]
RESIDUAL_GAIN = math.sqrt(2)  # of initial weights inside residual blocks, as ReLU halves the variance
Norm = Callable[..., Callable[[Array], Array]]  # (name) -> layer


class BatchNorm(nn.Module):
    """Batch normalisation; of `num_classes` with a scale and a shift for each.

    Statistics are of the global batch, their running means move by a tenth. `settle`: they become those of this very batch.
    """

    num_classes: int | None = None
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: Float[Array, "batch *dims"], labels: Int[Array, " batch"] | None, train: bool) -> Array:
        plain = self.num_classes is None
        shared = {"momentum": self.momentum, "axis_name": self.axis_name, "dtype": self.dtype, "name": "norm"}
        h = nn.BatchNorm(not train, use_bias=plain, use_scale=plain, **shared)(x)
        if plain:
            return h
        spread = (len(x), *(1,) * (x.ndim - 2), -1)
        embed = [
            nn.Embed(self.num_classes, x.shape[-1], self.dtype, embedding_init=start, name=name)(labels).reshape(spread)
            for name, start in (("scale", nn.initializers.ones), ("shift", nn.initializers.zeros))
        ]
        return h * embed[0] + embed[1]


# --- residual -----------------------------------------------------------------------------------------------------------------


class ResNetGenerator(nn.Module):
    """z [b, latent] to images in [-1, 1]: a dense layer, `blocks` residual blocks that each double the size, tanh."""

    image_shape: Sequence[int]
    channels: int = 256
    blocks: int = 3
    num_classes: int | None = None
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    momentum: float = 0.9

    @nn.compact
    def __call__(self, z: Float[Array, "batch latent"], labels: Int[Array, " batch"] | None, train: bool) -> Feature:
        def norm(x, name, classes=self.num_classes):
            return nn.relu(BatchNorm(classes, self.axis_name, self.dtype, self.momentum, name=name)(x, labels, train))

        def conv(features, size, name, gain=1.0):
            return nn.Conv(features, (size, size), dtype=self.dtype, kernel_init=xavier(gain), name=name)

        height, width = (side >> self.blocks for side in self.image_shape[:2])
        x = nn.Dense(height * width * self.channels, dtype=self.dtype, kernel_init=xavier(), name="in")(z)
        x = x.reshape(len(z), height, width, self.channels)
        for i in range(self.blocks):
            h = upsample_nearest(norm(x, f"block{i}_norm0"))
            h = norm(conv(self.channels, 3, f"block{i}_conv0", RESIDUAL_GAIN)(h), f"block{i}_norm1")
            h = conv(self.channels, 3, f"block{i}_conv1", RESIDUAL_GAIN)(h)
            # a 1x1 convolution commutes with repeating pixels: a quarter of the work before it
            x = h + upsample_nearest(conv(self.channels, 1, f"block{i}_skip")(x))
        x = norm(x, "out_norm", classes=None)
        return jnp.tanh(conv(self.image_shape[-1], 3, "out")(x)).astype(jnp.float32)


class ResNetCritic(nn.Module):
    """Images to scores [b]: residual blocks, of which the first `halvings` halve the size; pooling over all positions.

    `norm`: makes the layer between convolutions, see `players`. `pool`: "sum" (Miyato et al. 2018) or "mean" (WGAN-GP).
    """

    channels: int = 128
    blocks: int = 4
    halvings: int = 2
    pool: str = "sum"
    num_classes: int | None = None
    norm: Norm | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Feature, labels: Int[Array, " batch"] | None, train: bool) -> Float[Array, " batch"]:
        def conv(size, name, gain=1.0):
            return nn.Conv(self.channels, (size, size), dtype=self.dtype, kernel_init=xavier(gain), name=name)

        def norm(h, name):
            return h if self.norm is None else self.norm(name)(h, train)

        for i in range(self.blocks):
            halve = i < self.halvings
            # the first block sees pixels, not features: nothing comes before its first convolution
            h = x if i == 0 else nn.relu(norm(x, f"block{i}_norm0"))
            h = nn.relu(norm(conv(3, f"block{i}_conv0", RESIDUAL_GAIN)(h), f"block{i}_norm1"))
            h = conv(3, f"block{i}_conv1", RESIDUAL_GAIN)(h)
            if halve:
                h, x = average_pool(h), average_pool(x)
            if halve or x.shape[-1] != self.channels:  # a 1x1 convolution commutes with the average
                x = conv(1, f"block{i}_skip")(x)
            x = h + x
        h = nn.relu(x.astype(jnp.float32))
        return head(self, h.sum((1, 2)) if self.pool == "sum" else h.mean((1, 2)), labels)


# --- DCGAN --------------------------------------------------------------------------------------------------------------------


class DCGANGenerator(nn.Module):
    """z [b, latent] to images in [-1, 1]: a dense layer, transposed convolutions that each double the size, tanh."""

    image_shape: Sequence[int]
    channels: int = 64  # of the last layer but one; doubled towards the first
    doublings: int = 3
    num_classes: int | None = None
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    momentum: float = 0.9

    @nn.compact
    def __call__(self, z: Float[Array, "batch latent"], labels: Int[Array, " batch"] | None, train: bool) -> Feature:
        normal = nn.initializers.normal(0.02)

        def norm(x, name):
            h = BatchNorm(self.num_classes, self.axis_name, self.dtype, self.momentum, name=name)(x, labels, train)
            return nn.relu(h)

        height, width = (side >> self.doublings for side in self.image_shape[:2])
        widest = self.channels << self.doublings
        x = nn.Dense(height * width * widest, dtype=self.dtype, kernel_init=normal, name="in")(z)
        x = norm(x.reshape(len(z), height, width, widest), "norm0")
        for i in range(1, self.doublings + 1):
            up = nn.ConvTranspose(widest >> i, (4, 4), (2, 2), dtype=self.dtype, kernel_init=normal, name=f"up{i}")
            x = norm(up(x), f"norm{i}")
        x = nn.Conv(self.image_shape[-1], (3, 3), dtype=self.dtype, kernel_init=normal, name="out")(x)
        return jnp.tanh(x).astype(jnp.float32)


class DCGANCritic(nn.Module):
    """Images to scores [b]: pairs of a 3x3 convolution and a strided 4x4 one, a last 3x3 one, and a dense layer."""

    channels: int = 64
    halvings: int = 3
    num_classes: int | None = None
    norm: Norm | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Feature, labels: Int[Array, " batch"] | None, train: bool) -> Float[Array, " batch"]:
        def layer(x, features, size, stride, name):
            init = nn.initializers.normal(0.02)
            h = nn.Conv(features, (size, size), stride, dtype=self.dtype, kernel_init=init, name=name)(x)
            if self.norm is not None and name != "conv0":  # as pixels, the first layer has none
                h = self.norm(f"{name}_norm")(h, train)
            return nn.leaky_relu(h, 0.1)

        for i in range(self.halvings):
            x = layer(x, self.channels << i, 3, 1, f"conv{i}")
            x = layer(x, self.channels << (i + 1), 4, 2, f"down{i}")
        x = layer(x, self.channels << self.halvings, 3, 1, "last")
        return head(self, x.reshape(len(x), -1).astype(jnp.float32), labels)


# --- perceptrons --------------------------------------------------------------------------------------------------------------


class MLPCritic(nn.Module):
    """Points or small images to scores [b]: `depth` hidden layers of `width`, leaky ReLU."""

    width: int = 128
    depth: int = 3
    num_classes: int | None = None
    norm: Norm | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *dims"], labels: Int[Array, " batch"] | None, train: bool
    ) -> Float[Array, " batch"]:
        h = x.reshape(len(x), -1)
        for i in range(self.depth):
            h = nn.Dense(self.width, dtype=self.dtype, name=f"hidden{i}")(h)
            if self.norm is not None and i:
                h = self.norm(f"norm{i}")(h, train)
            h = nn.leaky_relu(h, 0.2)
        return head(self, h.astype(jnp.float32), labels)


class MLPGenerator(nn.Module):
    """z [b, latent] to points, or to small images in [-1, 1] by tanh: `depth` hidden layers of `width`, ReLU."""

    image_shape: Sequence[int]
    width: int = 128
    depth: int = 3
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "batch latent"], labels: Int[Array, " batch"] | None, train: bool) -> Array:
        h = z
        for i in range(self.depth):
            h = nn.relu(nn.Dense(self.width, dtype=self.dtype, name=f"hidden{i}")(h))
        h = (
            nn.Dense(math.prod(self.image_shape), dtype=self.dtype, name="out")(h)
            .reshape(len(z), *self.image_shape)
            .astype(jnp.float32)
        )
        return h if len(self.image_shape) == 1 else jnp.tanh(h)


# --- parts --------------------------------------------------------------------------------------------------------------------


def head(critic: nn.Module, h: Float[Array, "batch features"], labels: Int[Array, " batch"] | None) -> Float[Array, " batch"]:
    """The score: linear in the features, and with `critic.num_classes` plus their projection on the label's vector."""
    score = nn.Dense(1, kernel_init=xavier(), name="score")(h)[:, 0]
    if critic.num_classes is None:
        return score
    return score + (nn.Embed(critic.num_classes, h.shape[-1], embedding_init=xavier(), name="label")(labels) * h).sum(1)


def xavier(gain: float = 1.0) -> nn.initializers.Initializer:
    """Uniform with the variance 2 gain^2 / (fan in + fan out) (Glorot & Bengio 2010, eq. 16)."""
    return nn.initializers.variance_scaling(gain**2, "fan_avg", "uniform")


def average_pool(x: Feature) -> Feature:
    """Halves height and width."""
    return nn.avg_pool(x, (2, 2), (2, 2))
