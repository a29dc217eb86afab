"""Pictures of points on the plane and of the density that they should have: small uint8 images, fit for a grid of images."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float64, Int, UInt8

from gm_jax.errors import InputError

# Okabe and Ito's colours, which colour-blind eyes tell apart; the first also where there are no labels
PALETTE = np.array(
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [86, 180, 233], [230, 159, 0], [85, 85, 85], [140, 86, 75]]
)
RADIUS = 1.5  # of a dot, pixels
MARGIN = 2  # pixels that a dot reaches beyond the pixel of its centre
OPACITY = 0.5  # of one dot
DEEP = 25  # overlapping dots after which a colour is nearly as dark as it gets
DARKEST = 0.25  # brightness of a colour there


def scatter(
    points: Float[np.ndarray, "n 2"], box: float, size: int = 128, labels: Int[np.ndarray, " n"] | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """The points in the square [-box, box]^2 as soft dots on white, y up, coloured by label.

    Dots add up: the more of them, the fuller and then the darker the colour; where classes overlap it is their mean. The order
    of the points does not matter. Points outside the square are left out, and so are those that are not finite. Labels beyond
    the palette's 8 colours use these again.

    Raises InputError for points that are not [n, 2], and for labels that are not whole numbers [n].
    """
    points, labels = _checked(points, labels)
    inside = (np.abs(points) <= box).all(1)
    return _shade(_ink((points[inside] / box + 1) * (size / 2), labels[inside] % len(PALETTE), size))


def density_picture(
    log_density: Callable[[Float64[np.ndarray, "n 2"]], Float64[np.ndarray, " n"]], box: float, size: int = 128
) -> UInt8[np.ndarray, "size size 3"]:
    """The density at the centres of the pixels of [-box, box]^2, y up, from white to the shade of many dots of `scatter`.

    The shade is relative to the largest value in the square, so that `log_density`, in nats, may lack a constant. All white
    where the density is 0 throughout.
    """
    ticks = box * ((2 * np.arange(size) + 1) / size - 1)
    y, x = np.meshgrid(ticks[::-1], ticks, indexing="ij")
    values = log_density(np.stack([x, y], axis=-1).reshape(-1, 2)).reshape(size, size)
    largest = values.max()
    relative = np.exp(values - largest) if np.isfinite(largest) else np.zeros((size, size))
    return _shade(DEEP * relative[None])


def _checked(points: np.ndarray, labels: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputError(f"a scatter plot takes points [n, 2], not {list(points.shape)}; give two coordinates a point")
    labels = np.zeros(len(points), np.int32) if labels is None else np.asarray(labels)
    if labels.shape != (len(points),) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels of {len(points)} points are as many whole numbers, not {labels.dtype} {list(labels.shape)}")
    return points, labels


def _ink(places: np.ndarray, colours: np.ndarray, size: int) -> np.ndarray:
    """Number of dots over each pixel: [colour, size, size]. `places` [n, 2] count pixels from the left and from below."""
    padded = size + 2 * MARGIN + 1  # the last row and column are of places on the very edge of the square
    pixels = np.floor(places).astype(np.int64)
    ink = np.zeros(len(PALETTE) * padded**2)
    reach = range(-MARGIN, MARGIN + 1)
    for dx, dy in ((dx, dy) for dx in reach for dy in reach):
        distance = np.hypot(*(pixels + (dx + 0.5, dy + 0.5) - places).T)
        cover = np.clip(RADIUS + 0.5 - distance, 0, 1)  # a disc whose edge is one pixel wide
        row, column = pixels[:, 1] + dy + MARGIN, pixels[:, 0] + dx + MARGIN
        ink += np.bincount((colours * padded + row) * padded + column, cover, minlength=ink.size)
    return ink.reshape(-1, padded, padded)[:, MARGIN : MARGIN + size, MARGIN : MARGIN + size][:, ::-1]


def _shade(ink: np.ndarray) -> np.ndarray:
    """Ink by colour [k, size, size] on white: uint8 [size, size, 3]. A few dots give the colour, many darken it."""
    total = ink.sum(0)[..., None]
    colour = np.einsum("khw,kc->hwc", ink, PALETTE[: len(ink)]) / np.maximum(total, 1e-9)
    opacity = 1 - (1 - OPACITY) ** total
    brightness = DARKEST + (1 - DARKEST) * np.exp(-total / DEEP)
    return np.rint(255 * (1 - opacity) + colour * brightness * opacity).astype(np.uint8)
