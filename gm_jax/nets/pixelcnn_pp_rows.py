"""PixelCNN++ row by row and pixel by pixel: what `nets.pixelcnn_pp` computes of a whole image, each feature once.

The stream "above" of a row needs the pixels of the rows before alone, so it is computed for a whole row at a time. The stream
"left" moves from pixel to pixel; what its convolutions take from the row before, and what it is told by the other stream, is
prepared for the whole row. A row and a column of a lower resolution are computed at every second one of the next higher: rows
differ by their `phase`, the row modulo 2^halvings, and columns likewise.

A memory holds by layer what came into it in the last row of its resolution, which its window reaches back to.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from gm_jax.core import PyTree
from gm_jax.images import to_float
from gm_jax.nets.layers import with_ones
from gm_jax.nets.pixelcnn import before, neighbours
from gm_jax.nets.pixelcnn_pp import ABOVE, LEFT, PixelCNNPP, concat_elu, doubled_columns, layers_of, norm, walk

Weights = dict[str, dict[str, Array]]
Memory = dict[str, Array]
Row = Float[Array, "batch width c"]


def folded(params: PyTree, dtype: jnp.dtype) -> PyTree:
    """The parameters with normalised and scaled weights in place of kernels and scales."""
    if "kernel" in params:
        kernel = params["kernel"] / norm(params["kernel"]) * params["scale"]
        return {"kernel": kernel.astype(dtype), "bias": params["bias"].astype(dtype)}
    return {name: folded(p, dtype) if isinstance(p, dict) else p.astype(dtype) for name, p in params.items()}


def start(net: PixelCNNPP, n: int, width: int, image_channels: int) -> PyTree:
    """The memories of both streams, and the row of pixels, before the first row: nothing but zeros."""

    def zeros(level, channels=net.channels):
        return jnp.zeros((n, width >> level, channels), net.dtype)

    memory = {}
    for level in range(net.halvings + 1):
        names = layers_of(level, net.num_layers, net.halvings)
        memory |= {f"{name}_{end}": zeros(level) for name in names for end in ("in", "out")}
        if level < net.halvings:
            memory |= {f"halve{level}": zeros(level), f"double{level}": zeros(level + 1)}
    pixels = zeros(0, image_channels + 1)
    return {ABOVE: memory | {"first": pixels}, LEFT: memory, "row": pixels}


def draw_row(
    net: PixelCNNPP,
    weights: PyTree,
    memory: PyTree,
    phase: int,
    pixel: Callable[[Int[Array, ""], Array], UInt8[Array, "batch c"]],
    labels: Int[Array, " batch"] | None = None,
) -> tuple[PyTree, UInt8[Array, "batch width c"]]:
    """One more row: (memory, its pixels).

    weights: `folded`. phase: the row's number modulo 2^halvings. pixel: (column, the network's answer [batch, size]) -> the
    pixel's levels.
    """
    above = memory["row"]
    row = OnRow(net, weights[ABOVE], memory[ABOVE], phase, labels)
    walk(row, row.first(above))
    told = from_rows_before(net, weights[LEFT], memory[LEFT], above, phase, row.shown, labels)
    depth = active_levels(net.halvings, phase)
    width = above.shape[1]
    block = 2 ** (depth - 1)  # of columns, in which the lowest of these resolutions has one
    n = len(above)

    def columns(carry, xs):
        index, told = xs
        pixels, carry = [], dict(carry)
        seen: dict[str, list[Array]] = {}
        for i in range(block):
            at = AtPixel(net, weights[LEFT], carry, told, i, depth, seen)
            answer = _last(weights["last"], walk(at, at.first()))
            pixels.append(pixel(index * block + i, answer))
            carry["first"] = _seen(net, pixels[-1])
        return carry, (jnp.stack(pixels), {name: jnp.stack(xs) for name, xs in seen.items()})

    nothing = jnp.zeros((n, net.channels), net.dtype)
    carry = {name: nothing for level in range(depth) for name in _inputs(net, level)}
    carry |= {f"halve{level}": nothing for level in range(min(depth, net.halvings))}
    carry |= {f"double{level}": nothing for level in range(depth - 1)} | {"first": jnp.zeros_like(above[:, 0])}
    blocks = jax.tree.map(partial(_in_blocks, width // block), told)
    _, (pixels, seen) = jax.lax.scan(columns, carry, (jnp.arange(width // block), blocks))
    left = memory[LEFT] | jax.tree.map(_as_row, seen)
    levels = _as_row(pixels)
    return {ABOVE: memory[ABOVE] | row.new, LEFT: left, "row": _seen(net, levels)}, levels


def active_levels(halvings: int, phase: int) -> int:
    """How many resolutions, from the highest, have a new row in a row of this phase."""
    return next((level for level in range(1, halvings + 1) if phase % 2**level), halvings + 1)


def _seen(net: PixelCNNPP, levels: UInt8[Array, "*shape c"]) -> Float[Array, "*shape c1"]:
    """Pixels as the network sees them."""
    return with_ones(to_float(levels)).astype(net.dtype)


def _inputs(net: PixelCNNPP, level: int) -> list[str]:
    return [f"{name}_{end}" for name in layers_of(level, net.num_layers, net.halvings) for end in ("in", "out")]


def _in_blocks(blocks: int, row: Row) -> Float[Array, "block column batch c"]:
    return row.swapaxes(0, 1).reshape(blocks, -1, len(row), row.shape[-1])


def _as_row(blocks: Float[Array, "block column batch c"]) -> Row:
    return blocks.reshape(-1, *blocks.shape[2:]).swapaxes(0, 1)


def _last(weights: dict[str, Array], features: Float[Array, "batch c"]) -> Float[Array, "batch size"]:
    return (nn.elu(features) @ weights["kernel"][0, 0] + weights["bias"]).astype(jnp.float32)


def _window(x: Row, kernel: Float[Array, "k c features"]) -> Float[Array, "batch width features"]:
    """A row of a convolution: three columns around the own one, or two that end there."""
    around = neighbours(x, 1, 1, len(kernel) - 2)
    return around @ kernel.reshape(-1, kernel.shape[-1])


class OnRow:
    """`Operations` of the stream "above" on one row. `new` becomes part of the memory."""

    def __init__(self, net: PixelCNNPP, weights: Weights, memory: Memory, phase: int, labels: Int[Array, " batch"] | None):
        self.num_layers, self.halvings = net.num_layers, net.halvings
        self.weights, self.memory, self.phase, self.labels = weights, memory, phase, labels
        self.new: Memory = {}
        self.shown: dict[str, Row] = {}

    def first(self, above: Row) -> Row:
        """The stream's first features: a convolution, then moved down by a row; zeros in the first row."""
        return self.convolved("first", above, lambda x: x) * above[..., -1:]

    def convolved(self, name: str, x: Row, prepare: Callable[[Array], Array]) -> Row:
        weights, self.new[name] = self.weights[name], x
        kernel = weights["kernel"]
        return _window(prepare(self.memory[name]), kernel[0]) + _window(prepare(x), kernel[1]) + weights["bias"]

    def conv(self, name: str, x: Row, features: int, residual: bool = False) -> Row:
        y = self.convolved(name, x, concat_elu)
        return y if not residual or self.labels is None else y + _of_labels(self.weights, name, self.labels)[:, None]

    def short_cut(self, name: str, x: Row, own: Row | None) -> Row:
        if own is None:
            return x
        weights = self.weights[name]
        return x + concat_elu(own) @ weights["kernel"][0, 0] + weights["bias"]

    def below(self, level: int, x: Row, inner: Callable[[Array], Array]) -> Row:
        half, double = f"halve{level}", f"double{level}"
        if level + 1 < active_levels(self.halvings, self.phase):
            self.new[double] = inner(self.convolved(half, x, lambda x: x)[:, ::2])
        self.new[half] = x
        return _doubled(self.weights[double], (self.memory | self.new)[double], level, self.phase)

    def show(self, name: str, x: Row) -> Row:
        self.shown[name] = x
        return x


def _doubled(weights: dict[str, Array], x: Row, level: int, phase: int) -> Row:
    """A row of the transposed convolution: the upper or the lower one of the two that a row reaches."""
    return doubled_columns(x, weights["kernel"][(phase >> level) % 2]) + weights["bias"]


def _of_labels(weights: Weights, name: str, labels: Int[Array, " batch"]) -> Float[Array, "batch features"]:
    return weights[f"{name}_label"]["embedding"][labels]


def from_rows_before(
    net: PixelCNNPP,
    weights: Weights,
    memory: Memory,
    above: Row,
    phase: int,
    shown: dict[str, Row],
    labels: Int[Array, " batch"] | None,
) -> dict[str, Row]:
    """What each layer of the stream "left" takes in a row from the row before and from what the other stream shows."""
    depth = active_levels(net.halvings, phase)
    row, column = weights["first_row"], weights["first_column"]
    first_row = (_window(above, row["kernel"][0]) + row["bias"]) * above[..., -1:]
    told = {"first": first_row + before(above, 1) @ column["kernel"][0, 0]}

    def convolved(name, prepare):
        return _window(prepare(memory[name]), weights[name]["kernel"][0]) + weights[name]["bias"]

    for level in range(depth):
        told |= {name: convolved(name, concat_elu) for name in _inputs(net, level)}
        for name in layers_of(level, net.num_layers, net.halvings):
            if labels is not None:
                told[f"{name}_out"] += _of_labels(weights, f"{name}_out", labels)[:, None]
            skip, other = weights[f"{name}_skip"], concat_elu(shown[name])
            told[f"{name}_skip"] = other @ _of_other(skip["kernel"][0, 0], other.shape[-1]) + skip["bias"]
        if level + 1 < depth:
            told[f"halve{level}"] = convolved(f"halve{level}", lambda x: x)[:, ::2]
        elif level < net.halvings:
            told[f"double{level}"] = _doubled(weights[f"double{level}"], memory[f"double{level}"], level, phase)
    return told


def _of_other(kernel: Float[Array, "c features"], channels: int) -> Float[Array, "c2 features"]:
    """The rows of a short-cut's kernel for concat_elu of the other stream's features, which come before the own ones."""
    return kernel.reshape(2, -1, kernel.shape[-1])[:, : channels // 2].reshape(channels, -1)


def _of_own(kernel: Float[Array, "c features"], channels: int) -> Float[Array, "c2 features"]:
    return kernel.reshape(2, -1, kernel.shape[-1])[:, -(channels // 2) :].reshape(channels, -1)


class AtPixel:
    """`Operations` of the stream "left" at one pixel: column `index` of a block.

    carry: what came into each layer one column before; it is brought up to date. told: see `from_rows_before`, by column of
    the block. seen: takes up what comes into each layer.
    """

    def __init__(
        self,
        net: PixelCNNPP,
        weights: Weights,
        carry: Memory,
        told: dict[str, Any],
        index: int,
        depth: int,
        seen: dict[str, list[Array]],
    ):
        self.num_layers, self.halvings = net.num_layers, net.halvings
        self.weights, self.carry, self.told, self.index, self.depth, self.seen = weights, carry, told, index, depth, seen

    def first(self) -> Float[Array, "batch c"]:
        """The stream's first features; those of the column move right by one."""
        weights, left = self.weights["first_column"], self.carry["first"]
        return self.told["first"][self.index] + left @ weights["kernel"][1, 0] + weights["bias"] * left[:, -1:]

    def remember(self, name: str, x: Array) -> Array:
        """What came into the layer one column before; now it is x."""
        left, self.carry[name] = self.carry[name], x
        self.seen.setdefault(name, []).append(x)
        return left

    def here(self, name: str) -> Array:
        """What the layer is told at this column of its resolution."""
        told, block = self.told[name], 2 ** (self.depth - 1)
        return told[self.index * len(told) // block]

    def convolved(self, name: str, left: Array, x: Array) -> Array:
        kernel = self.weights[name]["kernel"][1]
        return self.here(name) + jnp.concatenate([left, x], axis=-1) @ kernel.reshape(-1, kernel.shape[-1])

    def conv(self, name: str, x: Array, features: int, residual: bool = False) -> Array:
        return self.convolved(name, concat_elu(self.remember(name, x)), concat_elu(x))

    def short_cut(self, name: str, x: Array, own: Array | None) -> Array:
        x = x + self.here(name)
        if own is None:
            return x
        own = concat_elu(own)
        return x + own @ _of_own(self.weights[name]["kernel"][0, 0], own.shape[-1])

    def below(self, level: int, x: Array, inner: Callable[[Array], Array]) -> Array:
        half, double = f"halve{level}", f"double{level}"
        left = self.remember(half, x)
        if level + 1 == self.depth:  # no new row there: the last one serves two
            return self.here(double)
        second = (self.index >> level) % 2
        if not second:
            self.remember(double, inner(self.convolved(half, left, x)))
        weights = self.weights[double]
        return self.carry[double] @ weights["kernel"][0, second] + weights["bias"]

    def show(self, name: str, x: Array) -> Array:
        return x
