"""Images as bytes: the one rounding rule, grids of tiles, PNG and GIF files.

Models see float32 in [-1, 1], files and metrics see uint8 in 0..255. All of the project crosses over here, because a second
rounding rule (truncation instead of rounding, say) shifts every pixel by half a level and with it every metric.
"""

import io
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from gm_jax.system.files import write_atomically

VIEWABLE = 512  # pictures are magnified until their longer side has this many pixels
BACKGROUND = 255  # white between the tiles and in the empty places of the last row


def to_float(images: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
    """uint8 levels 0..255 to float32 in [-1, 1]: x / 127.5 - 1. NumPy in, NumPy out; otherwise JAX, also under `jit`.

    Raises ValueError for any dtype but uint8.
    """
    if images.dtype != np.uint8:
        raise ValueError(f"to_float takes uint8 images, not {images.dtype}")
    xp = jnp if isinstance(images, jax.Array) else np
    return xp.asarray(images, xp.float32) / 127.5 - 1


def to_uint8(images: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
    """Floats in [-1, 1] to the nearest of the levels 0..255, half-way cases to the even level; beyond [-1, 1] is clipped.

    Exact inverse of `to_float` on all 256 levels. NumPy in, NumPy out; otherwise JAX, also under `jit`. The level of NaN is
    undefined: check before. Raises ValueError for integers (which have been converted already).
    """
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"to_uint8 takes floating-point images in [-1, 1], not {images.dtype}")
    xp = jnp if isinstance(images, jax.Array) else np
    levels = (xp.asarray(images, xp.float32) + 1) * 127.5
    return xp.round(xp.clip(levels, 0, 255)).astype(xp.uint8)


def tiled(
    images: UInt8[Array, "n height width channel"], columns: int | None = None, padding: int = 2, scale: int = 1
) -> UInt8[np.ndarray, "grid_height grid_width channel"]:
    """Tiles in reading order on white, `padding` pixels between and around them, each magnified `scale` times.

    The grid has ceil(n / columns) rows; columns defaults to ceil(sqrt(n)). With tiles of height h it is
    `padding + rows * (scale * h + padding)` high, and likewise wide. Raises ValueError for all but a non-empty uint8 batch.
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
        raise ValueError(f"tiled takes uint8 images [n, height, width, channel], not {images.dtype} {list(images.shape)}")
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    cell_height, cell_width = scale * height + padding, scale * width + padding
    canvas = np.full((padding + rows * cell_height, padding + columns * cell_width, channels), BACKGROUND, np.uint8)
    for i, tile in enumerate(images):
        top, left = padding + i // columns * cell_height, padding + i % columns * cell_width
        canvas[top : top + scale * height, left : left + scale * width] = _magnify(tile, scale)
    return canvas


def save_png(path: str | os.PathLike, image: UInt8[Array, "height width channel"], scale: int | None = None) -> None:
    """Writes one image of 1 (grey) or 3 (RGB) channels, magnified `scale` times by nearest neighbour; parents are made.

    Without `scale` a small image is magnified until its longer side has 512 pixels; scale=1 keeps every pixel as it is. The
    file appears whole or not at all. Raises ValueError for other channel counts or dtypes.
    """
    buffer = io.BytesIO()
    _to_pillow(image, scale).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def save_gif(
    path: str | os.PathLike,
    frames: UInt8[Array, "frame height width channel"],
    duration_ms: int = 100,
    hold_ms: int = 1500,
    scale: int | None = None,
) -> None:
    """Writes an endless animation, `duration_ms` a frame and `hold_ms` the last one; else like `save_png`.

    GIF has 256 colours a frame: greys are exact, RGB is quantised. Equal neighbouring frames are stored as one longer frame.
    Raises ValueError without frames.
    """
    if not len(frames):
        raise ValueError("save_gif takes at least one frame")
    first, *others = [_to_pillow(frame, scale) for frame in frames]
    durations = [duration_ms] * len(others) + [hold_ms]
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=durations, loop=0)
    write_atomically(path, buffer.getvalue())


def _magnify(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _to_pillow(image: np.ndarray, scale: int | None) -> Image.Image:
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(f"a picture is uint8 [height, width, 1 or 3], not {image.dtype} {list(image.shape)}")
    image = _magnify(image, scale or math.ceil(VIEWABLE / max(image.shape[:2])))
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
