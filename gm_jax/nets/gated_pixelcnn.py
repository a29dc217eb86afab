"""Gated PixelCNN of images (van den Oord et al. 2016): `nets.pixelcnn` with 256-way softmaxes over the levels of sub-pixels.

In the paper every layer has features of red, of green and of blue, masked so that green is told red and blue both. Here the
layers know whole pixels alone, and only what follows them is told the sub-pixels before: the features of a pixel become hidden
units of red; together with a vector for the level of red, hidden units of green; and so on. The conditionals are those of the
paper, p(red | pixels before) p(green | red, ...) p(blue | red, green, ...), the network is not.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from gm_jax.core import Key, PyTree
from gm_jax.images import to_float
from gm_jax.nets.layers import with_ones
from gm_jax.nets.pixelcnn import GatedPixelCNN

LEVELS = 256


class GatedImagePixelCNN(GatedPixelCNN):
    """Pixels are floats in [-1, 1] beside a one; at each the network gives the features of those before. num_codes: 256.

    Without a bias what lies beyond the border stays zero when embedded.
    """

    image_channels: int = 3

    def setup(self) -> None:
        super().setup()
        channels = range(self.image_channels)
        self.pixels = nn.Dense(self.channels, use_bias=False, dtype=self.dtype)
        self.hiddens = [nn.Dense(self.channels, dtype=self.dtype) for _ in channels]
        self.outputs = [nn.Dense(self.num_codes, dtype=self.dtype) for _ in channels]
        self.told = [nn.Embed(self.num_codes, i * self.channels, self.dtype) for i in reversed(channels) if i]

    def __call__(
        self, x: Float[Array, "batch height width channel"], labels: Int[Array, " batch"] | None = None
    ) -> Float[Array, "batch height width c"]:
        """The features at all pixels; those at a pixel depend on none from that one on in reading order."""
        return self.from_embedded(self.embed(with_ones(x)), labels)

    def init_all(self, images: UInt8[Array, "batch height width channel"], labels: Int[Array, " batch"] | None = None) -> Array:
        """Passes through all layers."""
        return self.logits_of(self(to_float(images), labels), images)

    def embed(self, pixels: Float[Array, "*shape channel1"]) -> Float[Array, "*shape c"]:
        """The vectors that stand for pixels with ones."""
        return self.pixels(pixels)

    def _head(self, h):
        return nn.relu(h)

    def logits_of(
        self, features: Float[Array, "*shape c"], images: UInt8[Array, "*shape channel"]
    ) -> Float[Array, "*shape channel level"]:
        """The logits of each sub-pixel's level, given the pixel's features and the sub-pixels before it alone; float32."""
        told: Any = [0.0] * self.image_channels
        for i, embed in enumerate(self.told):  # what red tells green and blue, what green tells blue
            parts = jnp.split(embed(images[..., i].astype(jnp.int32)), self.image_channels - 1 - i, axis=-1)
            told = [*told[: i + 1], *(old + part for old, part in zip(told[i + 1 :], parts, strict=True))]
        hidden = [nn.relu(layer(features) + more) for layer, more in zip(self.hiddens, told, strict=True)]
        logits = [layer(h) for layer, h in zip(self.outputs, hidden, strict=True)]
        return jnp.stack(logits, axis=-2).astype(jnp.float32)


def level_log_prob(
    logits: Float[Array, "*shape channel level"], images: UInt8[Array, "*shape channel"]
) -> Float[Array, "*shape"]:
    """Log probability of pixels, in nats."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), images[..., None].astype(jnp.int32), axis=-1)
    return chosen.sum((-2, -1))


def draw_levels(
    net: GatedImagePixelCNN, params: PyTree, keys: Key, features: Float[Array, "batch c"], temperature: float
) -> UInt8[Array, "batch channel"]:
    """A pixel a key, sub-pixel by sub-pixel from softmax(logits / temperature)."""
    levels = jnp.zeros((len(features), net.image_channels), jnp.uint8)
    for i in range(net.image_channels):
        logits = net.apply({"params": params}, features, levels, method="logits_of")[:, i]
        channel_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        drawn = jax.vmap(jax.random.categorical)(channel_keys, logits / temperature)
        levels = levels.at[:, i].set(drawn.astype(jnp.uint8))
    return levels


Memory = tuple[list[Array], Array]  # windows of the vertical stack; the embedded row before


def start(net: GatedImagePixelCNN, n: int, width: int) -> Memory:
    """The memory before the first row."""
    windows = [jnp.zeros((n, width, (net.reach + 1) * net.channels), net.dtype)] * net.num_layers
    return windows, jnp.zeros((n, width, net.channels), net.dtype)


def draw_row(
    net: GatedImagePixelCNN,
    params: PyTree,
    memory: Memory,
    pixel: Callable[[Int[Array, ""], Array], UInt8[Array, "batch channel"]],
    labels: Int[Array, " batch"] | None = None,
) -> tuple[Memory, UInt8[Array, "batch width channel"]]:
    """One more row: (memory, its pixels). pixel: (column, features [batch, c]) -> the pixel's levels."""
    (windows, above), variables = memory, {"params": params}
    n, width, _ = above.shape
    windows, to_rows = net.apply(variables, windows, above, labels, method="next_row")

    def embedded(levels):
        return net.apply(variables, with_ones(to_float(levels)), method="embed")

    def column(carry, xs):
        index, to_row = xs
        windows, features = net.apply(variables, *carry, to_row, method="next_position")
        levels = pixel(index, features)
        return (windows, embedded(levels)), levels

    columns = jnp.arange(width), [to_row.swapaxes(0, 1) for to_row in to_rows]
    nothing = [jnp.zeros((n, (net.reach + 1) * net.channels), net.dtype)] * net.num_layers
    _, levels = jax.lax.scan(column, (nothing, jnp.zeros((n, net.channels), net.dtype)), columns)
    levels = levels.swapaxes(0, 1)
    return (windows, embedded(levels)), levels
