"""The network of PixelCNN++ (Salimans et al. 2017, section 2; openai/pixel-cnn, pixel_cnn_pp/model.py).

Two streams of features pass through the image. At every pixel the one "above" has seen the rows above, the one "left" also
what lies left in the pixel's own row. Shifting takes care of that: the image moves down by a row (above) and right by a column
(left) on entering, and after that no convolution looks down or, in the stream "left", right of its place.

Both streams go down to a quarter of the resolution and up again (`walk`), with gated residual layers at each resolution, and
short-cuts from each layer on the way down to its mirror on the way up. The stream "left" is told the stream "above" at every
layer. All weights are normalised (Salimans & Kingma 2016), and initialised by the data: on the first batch the outputs of every
layer have mean 0 and variance 1 (0.1 where a residual ends).

`walk` is written once, for whole images here, and row by row or pixel by pixel in `nets.pixelcnn_pp_rows`.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from gm_jax.core import Key, PyTree
from gm_jax.nets.layers import with_ones

ABOVE, LEFT = "above", "left"
WINDOWS = {ABOVE: (2, 3), LEFT: (2, 2)}  # of the convolutions: rows that end at the own one; columns around it, or ending there


class Operations(Protocol):
    """How the parts of a stream are computed: on whole images, on a row, at a pixel. `name` is a layer's."""

    num_layers: int
    halvings: int

    def conv(self, name: str, x: Array, features: int, residual: bool = False) -> Array:
        """A convolution of concat_elu(x). With `residual` it ends a residual: dropout before, the label after it."""

    def short_cut(self, name: str, x: Array, own: Array | None) -> Array:
        """`x` and what else a layer is told: `own` features of the way down, those of the other stream."""

    def below(self, level: int, x: Array, inner: Callable[[Array], Array]) -> Array:
        """`inner` at half the resolution."""

    def show(self, name: str, x: Array) -> Array:
        """`x`, which the other stream may be told."""


def walk(ops: Operations, x: Array, level: int = 0) -> Array:
    """A stream from its first features to its last: down through the resolutions from `level` on, and up again."""
    kept = [x]
    for i in range(ops.num_layers):
        kept.append(resnet(ops, f"down{level}_{i}", kept[-1]))
    x = ops.below(level, kept[-1], lambda x: walk(ops, x, level + 1)) if level < ops.halvings else kept.pop()
    for i in range(len(kept)):
        x = resnet(ops, f"up{level}_{i}", x, kept.pop())
    return x


def layers_of(level: int, num_layers: int, halvings: int) -> list[str]:
    """The names of the residual layers of a resolution."""
    ups = num_layers + (level < halvings)
    return [f"down{level}_{i}" for i in range(num_layers)] + [f"up{level}_{i}" for i in range(ups)]


def resnet(ops: Operations, name: str, x: Array, own: Array | None = None) -> Array:
    """A gated residual layer (gated_resnet of nn.py there)."""
    channels = x.shape[-1]
    h = ops.short_cut(f"{name}_skip", ops.conv(f"{name}_in", x, channels), own)
    value, opening = jnp.split(ops.conv(f"{name}_out", h, 2 * channels, residual=True), 2, axis=-1)
    return ops.show(name, x + value * nn.sigmoid(opening))


def concat_elu(x: Float[Array, "*shape c"]) -> Float[Array, "*shape 2*c"]:
    """elu of x and of -x."""
    return nn.elu(jnp.concatenate([x, -x], axis=-1))


class WeightNormConv(nn.Module):
    """A convolution without padding whose weights are scale * kernel / |kernel|, a norm for each output.

    transposed: doubles the resolution, see `doubled`. init_scale: standard deviation of the outputs on the batch of `init`.
    """

    features: int
    window: tuple[int, int] = (1, 1)
    stride: int = 1
    transposed: bool = False
    init_scale: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 features"]:
        shape = (*self.window, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(0.05), shape)
        kernel = (kernel / norm(kernel)).astype(self.dtype)
        x = x.astype(self.dtype)
        if self.transposed:
            y = doubled(x, kernel)
        else:
            axes = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, kernel, (self.stride,) * 2, "VALID", dimension_numbers=axes)
        seen, places = y.astype(jnp.float32), (0, 1, 2)
        scale = self.param("scale", lambda _: self.init_scale / jnp.sqrt(seen.var(places) + 1e-10))
        bias = self.param("bias", lambda _: -seen.mean(places) * scale)
        return y * scale.astype(self.dtype) + bias.astype(self.dtype)


def norm(kernel: Float[Array, "h w c features"]) -> Float[Array, " features"]:
    """Of each output's weights."""
    return jnp.sqrt(jnp.square(kernel).sum((0, 1, 2)) + 1e-12)


def doubled_columns(x: Float[Array, "*shape w c"], kernel: Float[Array, "k c features"]) -> Float[Array, "*shape 2*w features"]:
    """A transposed convolution along a row: column i reaches 2i and 2i + 1, with a third weight 2i - 1, too."""
    even, odd = x @ kernel[-2], x @ kernel[-1]
    if len(kernel) == 3:
        ahead = jnp.concatenate([x[..., 1:, :], jnp.zeros_like(x[..., :1, :])], axis=-2)
        odd = odd + ahead @ kernel[0]
    return jnp.stack([even, odd], axis=-2).reshape(*x.shape[:-2], -1, even.shape[-1])


def doubled(x: Float[Array, "batch h w c"], kernel: Float[Array, "2 k c features"]) -> Float[Array, "batch 2*h 2*w features"]:
    """The same for an image: row i reaches 2i and 2i + 1."""
    rows = jnp.stack([doubled_columns(x, k) for k in kernel], axis=2)
    return rows.reshape(len(x), -1, *rows.shape[3:])


def shifted(x: Float[Array, "batch h w c"], axis: int) -> Float[Array, "batch h w c"]:
    """Down by a row (axis 1) or right by a column (axis 2); zeros come in."""
    padding = [(int(i == axis), 0) for i in range(4)]
    return jax.lax.slice_in_dim(jnp.pad(x, padding), 0, x.shape[axis], axis=axis)


class OnImages:
    """`Operations` on whole images; its modules belong to the module that calls it."""

    def __init__(self, stream: "Stream", told: dict[str, Array], labels: Int[Array, " batch"] | None, train: bool):
        self.stream, self.told, self.labels, self.train = stream, told, labels, train
        self.num_layers, self.halvings = stream.num_layers, stream.halvings
        self.shown: dict[str, Array] = {}
        self.layer = partial(WeightNormConv, dtype=stream.dtype)

    def conv(self, name: str, x: Array, features: int, residual: bool = False) -> Array:
        s, h = self.stream, concat_elu(x)
        if not residual:
            return self.layer(features, s.window, name=name)(s.padded(h))
        h = nn.Dropout(s.dropout, deterministic=not self.train, name=f"{name}_dropout")(h)
        h = self.layer(features, s.window, init_scale=0.1, name=name)(s.padded(h))
        if self.labels is None:
            return h
        embed = nn.Embed(s.num_classes, features, s.dtype, embedding_init=nn.initializers.normal(0.05), name=f"{name}_label")
        return h + embed(self.labels)[:, None, None]

    def short_cut(self, name: str, x: Array, own: Array | None) -> Array:
        other = self.told.get(name.removesuffix("_skip"))
        told = [features for features in (other, own) if features is not None]
        if not told:
            return x
        return x + self.layer(x.shape[-1], name=name)(concat_elu(jnp.concatenate(told, axis=-1)))

    def below(self, level: int, x: Array, inner: Callable[[Array], Array]) -> Array:
        s, features = self.stream, x.shape[-1]
        half = self.layer(features, s.window, stride=2, name=f"halve{level}")(s.padded(x))
        return self.layer(features, s.window, transposed=True, name=f"double{level}")(inner(half))

    def show(self, name: str, x: Array) -> Array:
        self.shown[name] = x
        return x


class Stream(nn.Module):
    """One stream on whole images: (pixels with ones, what the other one shows, labels) -> (last features, what it shows)."""

    kind: Literal["above", "left"]
    channels: int
    num_layers: int
    halvings: int
    num_classes: int | None
    dropout: float
    dtype: jnp.dtype

    @property
    def window(self) -> tuple[int, int]:
        return WINDOWS[self.kind]

    def padded(self, x: Float[Array, "batch h w c"], window: tuple[int, int] | None = None) -> Array:
        """With zeros above and beside, so that a convolution ends at the own row, and (left) at the own column."""
        height, width = window or self.window
        beside = (width // 2, width // 2) if width == 3 else (width - 1, 0)
        return jnp.pad(x, ((0, 0), (height - 1, 0), beside, (0, 0)))

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch h w c"], told: dict[str, Array], labels: Int[Array, " batch"] | None, train: bool
    ) -> tuple[Float[Array, "batch h w channels"], dict[str, Array]]:
        def first(window, axis, name):
            conv = WeightNormConv(self.channels, window, dtype=self.dtype, name=name)
            return shifted(conv(self.padded(x, window)), axis)

        if self.kind == ABOVE:
            features = first((2, 3), 1, "first")
        else:
            features = first((1, 3), 1, "first_row") + first((2, 1), 2, "first_column")
        ops = OnImages(self, told, labels, train)
        features = walk(ops, features)
        return features, ops.shown


class PixelCNNPP(nn.Module):
    """Images in [-1, 1] -> at each pixel `size` numbers, float32, which depend on no pixel from that one on in reading order.

    Height and width must be divisible by 2^halvings. With `num_classes` it is told labels (`hw` of nn.py there).
    """

    size: int
    channels: int = 160
    num_layers: int = 5
    halvings: int = 2
    num_classes: int | None = None
    dropout: float = 0.5
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width c"], labels: Int[Array, " batch"] | None = None, train: bool = False
    ) -> Float[Array, "batch height width size"]:
        sizes = (self.channels, self.num_layers, self.halvings, self.num_classes, self.dropout, self.dtype)
        x = with_ones(x).astype(self.dtype)
        _, shown = Stream(ABOVE, *sizes, name=ABOVE)(x, {}, labels, train)
        features, _ = Stream(LEFT, *sizes, name=LEFT)(x, shown, labels, train)
        return WeightNormConv(self.size, dtype=self.dtype, name="last")(nn.elu(features)).astype(jnp.float32)


def init(
    net: PixelCNNPP, key: Key, x: Float[Array, "batch height width c"], labels: Int[Array, " batch"] | None = None
) -> PyTree:
    """Parameters whose scales and biases fit the batch. All kernels are drawn at once; one by one they take long to compile."""
    shapes = flatten_dict(jax.eval_shape(net.init, key, x, labels)["params"])
    shapes = {path: leaf.shape for path, leaf in shapes.items() if path[-1] in ("kernel", "embedding")}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    parts = jnp.split(0.05 * jax.random.normal(key, (ends[-1],)), ends[:-1])
    drawn = {path: part.reshape(shape) for part, (path, shape) in zip(parts, shapes.items(), strict=True)}
    rngs = {"params": key}  # which nothing is drawn with any more
    return net.apply({"params": unflatten_dict(drawn)}, x, labels, mutable=["params"], rngs=rngs)[1]["params"]
