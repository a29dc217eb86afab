"""3x3 convolutions with 2.25 times fewer multiplications, for inference on a CPU: F(2x2, 3x3) of Lavin & Gray 2016 ("Fast
Algorithms for Convolutional Neural Networks", section 4.1).

The output is cut into tiles of 2x2 pixels, each from a tile of 4x4 pixels of the input. In the coordinates (points 0, 1, -1 and
infinity) of the matrices below, a convolution is a matrix product for each of the 16 coordinates. In float32 the result is as
near to the exact one as that of the plain convolution.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

Map = Float[Array, "batch height width channel"]
Kernel = Float[Array, "3 3 channel out_channel"]
OutMap = Float[Array, "batch out_height out_width out_channel"]

# with less, the matrix products are too small to repay the changes of coordinates
SMALLEST_GRID = 256  # pixels
FEWEST_CHANNELS = 64

# B^T, G and A^T of the paper's equation 7
INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))


def conv_general_dilated(
    x: Array, kernel: Array, window_strides: Sequence[int], padding: str | Sequence[tuple[int, int]], **settings: Any
) -> Array:
    """`jax.lax.conv_general_dilated` (of [batch, height, width, channel] and [height, width, channel, out_channel], as Flax's
    layers call it), by `conv3x3` where that computes the same and may be faster.
    """
    border = 0 if padding == "VALID" else 1 if padding == "SAME" or tuple(map(tuple, padding)) == ((1, 1), (1, 1)) else None
    dilations = (*(settings.get("lhs_dilation") or ()), *(settings.get("rhs_dilation") or ()))
    ones = {*window_strides, *dilations, settings.get("feature_group_count", 1), settings.get("batch_group_count", 1)} == {1}
    float32 = x.dtype == kernel.dtype == jnp.float32 and settings.get("precision") is None
    if ones and border is not None and float32 and kernel.shape[:2] == (3, 3):
        (_, height, width, _), channels = x.shape, min(kernel.shape[2:])
        if height * width >= SMALLEST_GRID and channels >= FEWEST_CHANNELS:
            return conv3x3(x, kernel, border)
    return lax.conv_general_dilated(x, kernel, window_strides, padding, **settings)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def conv3x3(x: Map, kernel: Kernel, border: int) -> OutMap:
    """Convolution of `x` within a border of `border` zeros; on a CPU the fast one.

    In what is differentiated it is the plain one: in a train step the changes of coordinates cost what the products save.
    """
    return lax.platform_dependent(x, kernel, cpu=partial(tiled, border=border), default=partial(plain, border=border))


@partial(conv3x3.defjvp, symbolic_zeros=True)
def _conv3x3_jvp(border: int, primals: tuple[Map, Kernel], tangents: tuple[Map, Kernel]) -> tuple[OutMap, OutMap]:
    (x, kernel), (dx, dkernel) = primals, tangents
    pairs = ((dx, kernel), (x, dkernel))
    terms = [plain(*pair, border) for pair in pairs if not any(isinstance(a, SymbolicZero) for a in pair)]
    return plain(x, kernel, border), sum(terms[1:], terms[0])


def plain(x: Map, kernel: Kernel, border: int) -> OutMap:
    """XLA's convolution."""
    padding = ((border, border), (border, border))
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def tiled(x: Map, kernel: Kernel, border: int) -> OutMap:
    """The fast algorithm, on any device. Of an odd output the last tiles are cut."""
    height, width = (size + 2 * border - 2 for size in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (border, border + height % 2), (border, border + width % 2), (0, 0)))
    return _whole_tiles(x, kernel)[:, :height, :width]


def _whole_tiles(x: Map, kernel: Kernel) -> Float[Array, "batch height-2 width-2 out_channel"]:
    """Without padding; height and width are even."""
    batch, height, width, channels = x.shape
    grid = (batch, height // 2 - 1, width // 2 - 1)
    rows = _combine(INPUT, [x[:, i : i + height - 3 : 2] for i in range(4)])
    tiles = [_combine(INPUT, [row[:, :, j : j + width - 3 : 2] for j in range(4)]) for row in rows]
    u = jnp.einsum("ai,bj,ijcd->abcd", KERNEL, KERNEL, kernel, precision="highest")
    products = [[(tiles[a][b].reshape(-1, channels) @ u[a, b]).reshape(*grid, -1) for b in range(4)] for a in range(4)]
    columns = zip(*(_combine(OUTPUT, row) for row in products), strict=True)
    # [batch, tile, row, tile, column, channel]
    y = jnp.stack([jnp.stack(_combine(OUTPUT, column), 2) for column in columns], 4)
    return y.reshape(batch, height - 2, width - 2, -1)


def _combine(matrix: Sequence[Sequence[int]], arrays: Sequence[Array]) -> list[Array]:
    """`matrix`, whose entries are 0, 1 and -1, times the arrays."""
    out = []
    for row in matrix:
        terms = [array if entry > 0 else -array for entry, array in zip(row, arrays, strict=True) if entry]
        out.append(sum(terms[1:], terms[0]))
    return out
