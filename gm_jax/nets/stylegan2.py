"""Generator and discriminator of StyleGAN2-ADA, in the sizes of its configuration for CIFAR-10.

  Karras et al. 2019, "A style-based generator architecture for GANs"                            mapping network, AdaIN, noise
  Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN"                    weight demodulation, skips
  Karras et al. 2020, "Training generative adversarial networks with limited data", appendix D   the sizes

A mapping network makes w of z and the label; at 4x4 pixels and every doubling of it, two convolutions (one at 4x4) are styled
by w, and what each resolution adds to the image is summed. All weights are drawn from N(0, 1) and scaled when they are used
("equalized learning rate", Karras et al. 2018). At 32x32x3 the generator has 19,947,539 parameters (20,215,315 with ten
classes), the discriminator 20,720,641 (23,089,664).
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gm_jax.core import Key, batch_gather, batch_rows, streams
from gm_jax.errors import InputError
from gm_jax.nets.song_unet import double, smooth

Feature = Float[Array, "batch height width channel"]
Labels = Int[Array, " batch"]

LOWEST = 4  # pixels a side
CLAMP = 256.0  # of activations
MAPPING_RATE = 0.01  # learning rate of mapping layers beside that of the others
LARGEST_GROUP = 32  # of images whose standard deviation is looked at


def num_layers(image_shape: Sequence[int]) -> int:
    """How many w a synthesis network takes: one a convolution, and one for the last image.

    Raises InputError for images that are not square with a side of 4, 8, 16 ...
    """
    height, width, _ = image_shape
    if height != width or height < LOWEST or height & (height - 1):
        raise InputError(f"StyleGAN2 makes images with sides of 4, 8, 16, 32 ..., not of {height}x{width}: resize them")
    return 2 * (height // LOWEST).bit_length()


class Mapping(nn.Module):
    """(z [b, latent] or None, labels or None) -> w [b, channels]: both normalised, `depth` dense layers with leaky ReLU."""

    channels: int = 512
    depth: int = 2
    num_classes: int | None = None

    @nn.compact
    def __call__(self, z: Float[Array, "batch latent"] | None, labels: Labels | None) -> Float[Array, "batch channels"]:
        parts = [] if z is None else [normalized(z)]
        if self.num_classes is not None:
            embedded = EqualDense(self.channels, name="label")(jax.nn.one_hot(labels, self.num_classes))
            parts.append(normalized(embedded))
        h = jnp.concatenate(parts, axis=1)
        for i in range(self.depth):
            h = lrelu(EqualDense(self.channels, rate=MAPPING_RATE, name=f"layer{i}")(h))
        return h


class Synthesis(nn.Module):
    """(w [b, layer, latent], keys [b] or None) -> float32 images, meant for [-1, 1] but not held there.

    keys: for noise of every pixel, whose strength is learnt, one a layer; None: no noise. `style`: "demodulation" of weights
    (2020), or "adain", normalisation of each feature map (2019).
    """

    image_shape: Sequence[int]
    channels: int = 512
    style: str = "demodulation"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, ws: Float[Array, "batch layer latent"], keys: Key | None) -> Feature:
        layers, image = num_layers(self.image_shape), None
        const = self.param("const", nn.initializers.normal(1.0), (LOWEST, LOWEST, self.channels))
        h = jnp.broadcast_to(const, (len(ws), *const.shape)).astype(self.dtype)
        for i in range(layers - 1):
            noise = None if keys is None else streams(keys, f"noise {i}")[0]
            up = i % 2 == 1
            h = StyledConv(self.channels, up, self.style, self.dtype, name=f"conv{i}")(h, ws[:, i], noise)
            if not up:  # the last convolution of a resolution; the image takes the style of the next one
                shown = ToImage(self.image_shape[-1], self.dtype, name=f"image{i // 2}")(h, ws[:, i + 1])
                image = shown if image is None else double(image, fir=True) + shown
        return image


class Discriminator(nn.Module):
    """(images, labels or None) -> scores [b]: plain convolutions, the standard deviation over the batch, two dense layers.

    With labels the score is the projection of 512 features on what a mapping network of eight layers makes of the label.
    """

    channels: int = 512
    num_classes: int | None = None
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Feature, labels: Labels | None) -> Float[Array, " batch"]:
        num_layers(x.shape[1:])
        conv = lambda size, name, dtype=self.dtype: EqualConv(self.channels, size, dtype, name=name)  # noqa: E731
        h, i = lrelu(conv(1, "image")(x)), 0
        while h.shape[1] > LOWEST:
            h = lrelu(conv(3, f"conv{i}")(h))
            h = lrelu(conv(3, f"down{i}")(h, down=True))
            i += 1
        h = with_batch_std(h.astype(jnp.float32), self.axis_name)
        h = lrelu(conv(3, "last", jnp.float32)(h))
        h = lrelu(EqualDense(self.channels, name="features")(h.reshape(len(h), -1)))
        if self.num_classes is None:
            return EqualDense(1, name="score")(h)[:, 0]
        seen = Mapping(self.channels, 8, self.num_classes, name="mapping")(None, labels)
        return (EqualDense(self.channels, name="score")(h) * seen).sum(1) / math.sqrt(self.channels)


# --- layers -------------------------------------------------------------------------------------------------------------------


class EqualDense(nn.Module):
    """A dense layer of N(0, 1) weights, scaled by 1 / sqrt(fan in). `rate`: its learning rate beside that of other layers."""

    features: int
    rate: float = 1.0
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch features"]:
        kernel = self.param("kernel", nn.initializers.normal(1 / self.rate), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,))
        return x @ (kernel * (self.rate / math.sqrt(x.shape[-1]))) + bias * self.rate


class EqualConv(nn.Module):
    """A convolution of N(0, 1) weights, scaled by 1 / sqrt(fan in). `down`: filtered, and every other pixel taken."""

    features: int
    size: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Feature, down: bool = False) -> Feature:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape) / math.sqrt(math.prod(shape[:3]))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = x.astype(self.dtype)
        y = conv(smooth(x) if down else x, kernel, 2 if down else 1, "VALID" if down else "SAME")
        return y + bias.astype(self.dtype)


class StyledConv(nn.Module):
    """A 3x3 convolution styled by w, noise, bias, leaky ReLU; with `up` at twice the size."""

    features: int
    up: bool
    style: str
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Feature, w: Float[Array, "batch latent"], keys: Key | None) -> Feature:
        adain = self.style == "adain"
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        strength = self.param("noise", nn.initializers.zeros, ())
        scale = EqualDense(self.features if adain else x.shape[-1], bias=1.0, name="style")(w)
        if adain:
            y = conv_up(x, kernel / math.sqrt(9 * x.shape[-1])) if self.up else conv(x, kernel / math.sqrt(9 * x.shape[-1]))
        else:
            y = modulated_conv(x, kernel, scale, self.up)
        if keys is not None:
            y = y + (strength * self.noise_of(keys, y.shape)).astype(y.dtype)
        y = lrelu(y + bias.astype(y.dtype))
        if adain:
            shift = EqualDense(self.features, name="shift")(w)
            y = adaptive_instance_norm(y, scale, shift)
        return y

    def noise_of(self, keys: Key, shape: Sequence[int]) -> Float[Array, "batch height width 1"]:
        """Standard normal, one number a pixel."""
        return jax.vmap(lambda key: jax.random.normal(key, (*shape[1:3], 1)))(keys)


class ToImage(nn.Module):
    """What a resolution adds to the image: a 1x1 convolution styled by w, without demodulation."""

    channels: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Feature, w: Float[Array, "batch latent"]) -> Feature:
        kernel = self.param("kernel", nn.initializers.normal(1.0), (x.shape[-1], self.channels))
        bias = self.param("bias", nn.initializers.zeros, (self.channels,))
        scale = EqualDense(x.shape[-1], bias=1.0, name="style")(w) / math.sqrt(x.shape[-1])
        y = (x * scale[:, None, None].astype(x.dtype)) @ kernel.astype(x.dtype)
        return jnp.clip(y.astype(jnp.float32) + bias, -CLAMP, CLAMP)


# --- operations ---------------------------------------------------------------------------------------------------------------


def normalized(z: Float[Array, "batch size"]) -> Float[Array, "batch size"]:
    """With a mean square of 1."""
    return z * jax.lax.rsqrt((z**2).mean(axis=1, keepdims=True) + 1e-8)


def lrelu(x: Array) -> Array:
    """Leaky ReLU of slope 0.2, times sqrt(2), held within +-256."""
    return jnp.clip(math.sqrt(2) * nn.leaky_relu(x, 0.2), -CLAMP, CLAMP)


def demodulation(
    kernel: Float[Array, "3 3 inputs outputs"], scale: Float[Array, "batch inputs"]
) -> Float[Array, "batch outputs"]:
    """1 / the norm of each filter whose inputs are scaled (Karras et al. 2020, "Analyzing", eq. 3)."""
    return jax.lax.rsqrt(scale**2 @ (kernel**2).sum((0, 1)) + 1e-8)


def modulated_conv(
    x: Feature, kernel: Float[Array, "3 3 inputs outputs"], scale: Float[Array, "batch inputs"], up: bool = False
) -> Feature:
    """The convolution by filters of each example's own, scaled along their inputs and brought to unit norm (eq. 1 to 3): inputs
    and outputs are scaled instead, so that one convolution serves the batch."""
    demodulate = demodulation(kernel, scale)[:, None, None].astype(x.dtype)
    x = x * scale[:, None, None].astype(x.dtype)
    return (conv_up(x, kernel) if up else conv(x, kernel)) * demodulate


def conv(x: Feature, kernel: Float[Array, "size size inputs outputs"], stride: int = 1, padding: str = "SAME") -> Feature:
    """A plain convolution."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel.astype(x.dtype), (stride, stride), padding, dimension_numbers=layout)


def conv_up(x: Feature, kernel: Float[Array, "3 3 inputs outputs"]) -> Feature:
    """Twice the size: zeros between pixels, the convolution, and the filter [1, 3, 3, 1] / 4 along either axis.

    Each of the four kinds of places has a convolution of its own, of those of the nine weights that do not meet zeros.
    """
    kernel = kernel.astype(x.dtype)

    def part(rows: slice, columns: slice) -> Feature:
        weights = kernel[rows, columns]
        edges = [(size - 1, size - 1) for size in weights.shape[:2]]
        return jax.lax.conv_general_dilated(x, weights, (1, 1), edges, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    even, odd = slice(0, 3, 2), slice(1, 2)
    rows = [_interleaved(part(of_rows, even), part(of_rows, odd), 2) for of_rows in (even, odd)]
    y = _interleaved(*rows, 1)  # [b, 2 h + 1, 2 w + 1, c]
    for axis in (1, 2):
        padded = jnp.pad(y, [(1, 1) if i == axis else (0, 0) for i in range(4)])
        size = y.shape[axis] - 1
        a, b, c, d = (jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(4))
        y = (a + d + 3 * (b + c)) / 4
    return y


def _interleaved(even: Array, odd: Array, axis: int) -> Array:
    """even[0], odd[0], even[1], ..., even[n]: there is one more of the even ones."""
    odd = jnp.pad(odd, [(0, 1) if i == axis else (0, 0) for i in range(odd.ndim)])
    pairs = jnp.stack([even, odd], axis=axis + 1)
    pairs = pairs.reshape(*even.shape[:axis], 2 * even.shape[axis], *even.shape[axis + 1 :])
    return jax.lax.slice_in_dim(pairs, 0, 2 * even.shape[axis] - 1, axis=axis)


def adaptive_instance_norm(x: Feature, scale: Float[Array, "batch c"], shift: Float[Array, "batch c"]) -> Feature:
    """Each feature map of each example with mean `shift` and standard deviation `scale` (Huang & Belongie 2017, eq. 8)."""
    h = x.astype(jnp.float32)
    h = (h - h.mean((1, 2), keepdims=True)) * jax.lax.rsqrt(h.var((1, 2), keepdims=True) + 1e-8)
    return (h * scale[:, None, None] + shift[:, None, None]).astype(x.dtype)


def with_batch_std(x: Feature, axis_name: str | None = None) -> Float[Array, "batch height width channel+1"]:
    """`x` with one more channel: the standard deviation over a group of images, averaged over features and pixels.

    Of a global batch of up to 32 that is one group; of more the groups have gcd(32, n) images, every (n / 32)-th (Karras et al.
    2018, section 3).
    """
    whole = batch_gather(x, axis_name)
    size = len(whole) if len(whole) <= LARGEST_GROUP else math.gcd(len(whole), LARGEST_GROUP)
    groups = whole.reshape(size, -1, *x.shape[1:])
    std = jnp.sqrt(groups.var(axis=0) + 1e-8).mean((1, 2, 3))
    std = batch_rows(jnp.tile(std, size), axis_name)
    return jnp.concatenate([x, jnp.broadcast_to(std[:, None, None, None], (*x.shape[:3], 1))], axis=3)
