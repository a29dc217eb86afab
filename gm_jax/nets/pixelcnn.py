"""Gated PixelCNN on a grid of discrete codes (van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders").

The codes are modelled one after the other in reading order, p(c) = prod_i p(c_i | c_1 .. c_{i-1}). Two stacks share the work:
the vertical one sees all rows above; the horizontal one sees what lies left in its own row, and takes over what the vertical
one found. So there is no blind spot (section 2.1). The input is shifted by one row (vertical) and one column (horizontal);
after that no layer looks down or right of its position. Unlike the paper's, the vertical stack has residual connections too.

Grids are small, so the convolutions are matrix products over windows. The same product then serves one position: `sample`
computes every feature once, where the naive sampler computes all of them anew for every code.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gm_jax.core import Key, PyTree


class GatedLayer(nn.Module):
    """One layer of both stacks (figure 2), for any number of positions at once: it is given the windows that they look at."""

    channels: int
    num_classes: int | None = None
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        dense = partial(nn.Dense, dtype=self.dtype)
        self.from_above = dense(2 * self.channels)
        self.down_to_row = dense(2 * self.channels)
        self.from_left = dense(2 * self.channels)
        self.out = dense(self.channels)
        if self.num_classes is not None:
            self.bias = nn.Embed(self.num_classes, 4 * self.channels, self.dtype, embedding_init=nn.initializers.zeros)
        self.context = dense(4 * self.channels)  # is there where a context is given

    def vertical(
        self,
        v: Float[Array, "batch *grid c"],
        window: Float[Array, "batch *grid w*c"],
        labels: Int[Array, " batch"] | None,
        context: Float[Array, "batch *grid f"] | None = None,
    ) -> tuple[Float[Array, "batch *grid c"], Float[Array, "batch *grid 2*c"]]:
        """(the next v, what the horizontal stack is to add). Labels and context enter as biases of the gates (eq. 4, 5)."""
        features = self.from_above(window)
        to_row = self.down_to_row(features)
        if labels is not None:
            bias = self.bias(labels).reshape(len(labels), *(1,) * (window.ndim - 2), -1)
            bias_above, bias_row = jnp.split(bias, 2, axis=-1)
            features, to_row = features + bias_above, to_row + bias_row
        if context is not None:
            bias_above, bias_row = jnp.split(self.context(context), 2, axis=-1)
            features, to_row = features + bias_above, to_row + bias_row
        return v + gate(features), to_row

    def horizontal(
        self, h: Float[Array, "batch *grid c"], window: Float[Array, "batch *grid w*c"], to_row: Float[Array, "batch *grid 2*c"]
    ) -> Float[Array, "batch *grid c"]:
        """The next h."""
        return h + self.out(gate(self.from_left(window) + to_row))


class GatedPixelCNN(nn.Module):
    """Logits of every code given those before it. With `num_classes`, given a label too; with a context, given that.

    With n = num_layers * reach a position sees n + 1 rows above, n columns to both sides there, and n + 1 codes to its left.
    `reach` 1 is a 3x3 kernel, 2 a 5x5 one.
    """

    num_codes: int
    channels: int
    num_layers: int
    reach: int = 1
    num_classes: int | None = None
    dtype: jnp.dtype = jnp.float32

    def setup(self) -> None:
        self.embedding = nn.Embed(self.num_codes, self.channels, self.dtype, embedding_init=nn.initializers.normal(1.0))
        self.layers = [GatedLayer(self.channels, self.num_classes, self.dtype) for _ in range(self.num_layers)]
        self.hidden = nn.Dense(self.channels, dtype=self.dtype)
        self.logits = nn.Dense(self.num_codes, dtype=self.dtype)

    def __call__(
        self,
        codes: Int[Array, "batch height width"],
        labels: Int[Array, " batch"] | None = None,
        context: Float[Array, "batch height width f"] | None = None,
    ) -> Float[Array, "batch height width code"]:
        """The logits at all positions, float32; those at a position do not depend on the codes there and later."""
        return self.from_embedded(self.embed(codes), labels, context)

    def embed(self, codes: Int[Array, "*shape"]) -> Float[Array, "*shape c"]:
        """The vectors that stand for codes."""
        return self.embedding(codes)

    def from_embedded(
        self,
        embedded: Float[Array, "batch height width c"],
        labels: Int[Array, " batch"] | None = None,
        context: Float[Array, "batch height width f"] | None = None,
    ) -> Float[Array, "batch height width code"]:
        """The logits at all positions from embedded codes."""
        v, h = before(embedded, axis=1), before(embedded, axis=2)
        for layer in self.layers:
            rows = neighbours(v, 1, self.reach)
            v, to_row = layer.vertical(v, neighbours(rows, 2, self.reach, self.reach), labels, context)
            h = layer.horizontal(h, neighbours(h, 2, self.reach), to_row)
        return self._head(h)

    def next_row(
        self,
        windows: list[Float[Array, "batch width w*c"]],
        above: Float[Array, "batch width c"],
        labels: Int[Array, " batch"] | None = None,
        context: Float[Array, "batch width f"] | None = None,
    ) -> tuple[list[Float[Array, "batch width w*c"]], list[Float[Array, "batch width 2*c"]]]:
        """The vertical stack of one row, given the row `above` it: (windows, what each layer of the horizontal stack adds)."""
        v, to_rows = above, []
        windows = list(windows)
        for i, layer in enumerate(self.layers):
            windows[i] = push(windows[i], v)
            v, to_row = layer.vertical(v, neighbours(windows[i], 1, self.reach, self.reach), labels, context)
            to_rows.append(to_row)
        return windows, to_rows

    def next_position(
        self,
        windows: list[Float[Array, "batch w*c"]],
        left: Float[Array, "batch c"],
        to_row: list[Float[Array, "batch 2*c"]],
    ) -> tuple[list[Float[Array, "batch w*c"]], Float[Array, "batch code"]]:
        """The horizontal stack at one position, given the code to its `left`: (windows, logits)."""
        h, windows = left, list(windows)
        for i, layer in enumerate(self.layers):
            windows[i] = push(windows[i], h)
            h = layer.horizontal(h, windows[i], to_row[i])
        return windows, self._head(h)

    def _head(self, h):
        return self.logits(nn.relu(self.hidden(nn.relu(h)))).astype(jnp.float32)


def gate(features: Float[Array, "*shape 2*c"]) -> Float[Array, "*shape c"]:
    """tanh of the first half times the sigmoid of the second (eq. 2)."""
    value, opening = jnp.split(features, 2, axis=-1)
    return jnp.tanh(value) * nn.sigmoid(opening)


def neighbours(x: Float[Array, "*shape c"], axis: int, back: int, ahead: int = 0) -> Float[Array, "*shape w*c"]:
    """At every position i the features at i - back .. i + ahead along `axis`, in this order; zeros beyond the border."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (back, ahead)
    padded = jnp.pad(x, widths)
    parts = [jax.lax.slice_in_dim(padded, i, i + x.shape[axis], axis=axis) for i in range(back + ahead + 1)]
    return jnp.concatenate(parts, axis=-1)


def before(x: Float[Array, "*shape c"], axis: int) -> Float[Array, "*shape c"]:
    """At every position the features of the one before it along `axis`; zeros at the first."""
    return neighbours(x, axis, 1)[..., : x.shape[-1]]


def push(window: Float[Array, "*shape w*c"], x: Float[Array, "*shape c"]) -> Float[Array, "*shape w*c"]:
    """The window one position on: the oldest features leave, `x` comes last."""
    return jnp.concatenate([window[..., x.shape[-1] :], x], axis=-1)


def sample(
    net: GatedPixelCNN,
    params: PyTree,
    keys: Key,
    grid: tuple[int, int],
    labels: Int[Array, " batch"] | None = None,
    temperature: float = 1.0,
    context: Float[Array, "batch height width f"] | None = None,
) -> Int[Array, "batch height width"]:
    """One grid of codes per key, drawn code by code from softmax(logits / temperature). Computes every feature once."""
    (height, width), n = grid, len(keys)
    apply = partial(net.apply, {"params": params})

    def empty(*shape):
        return jnp.zeros((n, *shape), net.dtype)

    def position(row, carry, column):
        windows, left = carry
        index, to_row = column
        windows, logits = apply(windows, left, to_row, method="next_position")
        codes = draw(keys, row * width + index, logits, temperature)
        return (windows, apply(codes, method="embed")), codes

    def next_row(carry, xs):
        (windows, above), (row, context) = carry, xs
        windows, to_rows = apply(windows, above, labels, context, method="next_row")
        columns = jnp.arange(width), [to_row.swapaxes(0, 1) for to_row in to_rows]
        nothing = [empty((net.reach + 1) * net.channels)] * net.num_layers, empty(net.channels)
        _, codes = jax.lax.scan(partial(position, row), nothing, columns)
        codes = codes.swapaxes(0, 1)
        return (windows, apply(codes, method="embed")), codes

    nothing = [empty(width, (net.reach + 1) * net.channels)] * net.num_layers, empty(width, net.channels)
    by_row = None if context is None else context.swapaxes(0, 1)
    _, codes = jax.lax.scan(next_row, nothing, (jnp.arange(height), by_row))
    return codes.swapaxes(0, 1)


def draw(
    keys: Key, position: int | Int[Array, ""], logits: Float[Array, "batch code"], temperature: float
) -> Int[Array, " batch"]:
    """The codes at one position, a function of each sample's key, the position and the logits alone."""
    position_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
    return jax.vmap(jax.random.categorical)(position_keys, logits / temperature).astype(jnp.int32)
