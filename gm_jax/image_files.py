"""Image files as uint8 arrays: which files count, and what their pixel formats become."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from gm_jax.errors import InputError

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # number of channels -> Pillow's name


def find(folder: Path) -> list[Path]:
    """The image files below a folder, as paths relative to it, sorted by name. Hidden files and folders are ignored.

    Raises InputError if there is none.
    """
    names = []
    for parent, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = [subfolder for subfolder in subfolders if not subfolder.startswith(".")]  # prunes the walk
        names += [Path(parent, file).relative_to(folder) for file in files if not file.startswith(".")]
    names = [name for name in names if name.suffix.lower() in EXTENSIONS]
    if not names:
        raise InputError(f"no images in {folder}; known are {', '.join(sorted(EXTENSIONS))}")
    return sorted(names, key=lambda name: name.as_posix())


def decode(path: Path) -> Image.Image:
    """One image in one of `MODES`: other colour spaces become RGB (RGBA with transparency), 16-bit channels keep their upper
    8 bits, of animations the first frame counts, EXIF rotation is applied. Raises InputError for a damaged file.
    """
    try:
        with Image.open(path) as file:
            return _to_known_mode(ImageOps.exif_transpose(file))
    except Exception as error:  # Pillow's decoders raise exceptions of many kinds for a damaged file
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"cannot decode {path} ({reason}); repair or remove it") from error


def pixels(image: Image.Image) -> UInt8[np.ndarray, "height width channel"]:
    """The levels of an image in one of `MODES`."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def read_all(
    paths: Sequence[Path], convert: Callable[[Image.Image], np.ndarray] = pixels
) -> list[UInt8[np.ndarray, "height width channel"]]:
    """`convert(decode(path))` of many files, on all cores. A photograph that `convert` shrinks is not kept at full size."""
    with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
        return list(pool.map(lambda path: convert(decode(path)), paths))


def stack(
    paths: Sequence[Path], images: Sequence[np.ndarray], remedy: str = "make them alike"
) -> UInt8[np.ndarray, "n height width channel"]:
    """Images of one shape as one array. Raises InputError with `remedy`, naming two files, if they are not alike."""
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise InputError(f"{paths[0]} is {_describe(images[0])} but {path} is {_describe(image)}; {remedy}")
    return np.stack(images)


def _to_known_mode(image: Image.Image) -> Image.Image:
    image.load()
    if image.mode in MODES.values():
        return image
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels ({image.mode}) have no known range")
    if image.mode == "1":
        return image.convert("L")
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _describe(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{width}x{height} {MODES[channels]}"
