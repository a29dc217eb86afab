"""Image files as uint8 arrays: which files count, and what their pixel formats become. What arrays of images look like."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, features

from gm_jax.errors import InputError

EXTENSIONS = frozenset(
    {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"}
    | ({".avif"} if features.check("avif") else set())  # which depends on how Pillow was built
)
OTHERS = frozenset({".avif", ".exr", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl", ".psd", ".svg", ".tga"}) - EXTENSIONS
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # number of channels -> Pillow's name
SHOWN = 10  # files that are named where many are bad
# Pillow scales the pixels of these raw modes to 8 bits, but not the colour that stands for transparency
TRANSPARENT = {"L;2": lambda level: level * 85, "L;4": lambda level: level * 17, "RGB;16B": lambda level: level >> 8}


def find(folder: Path) -> list[Path]:
    """The image files below a folder, as paths relative to it, sorted by name. Hidden files and folders are ignored.

    Links to folders are followed. A folder that can be reached in several ways counts once, where it lies itself if that is
    below `folder`. Says on stderr how many image files of kinds that are not read were left out. Raises InputError if there is
    no image, or a folder cannot be read.
    """
    names = [Path(parent, file).relative_to(folder) for parent, files in _folders(folder) for file in files if file[0] != "."]
    left_out = Counter(suffix for name in names if (suffix := name.suffix.lower()) in OTHERS)
    note = f"{left_out.total()} files of kinds that are not read ({', '.join(sorted(left_out))})"
    names = [name for name in names if name.suffix.lower() in EXTENSIONS]
    if not names:
        beside = f", but {note}" if left_out else ""
        raise InputError(f"no images in {folder}{beside}; known are {', '.join(sorted(EXTENSIONS))}")
    if left_out:
        print(f"left out: {note} in {folder}", file=sys.stderr)
    return sorted(names, key=lambda name: name.as_posix())


def decode(path: Path) -> Image.Image:
    """One image in one of `MODES`: other colour spaces become RGB, with transparency (of a palette, or of one grey or colour)
    RGBA; 16-bit channels keep their upper 8 bits (but those of a colour .ppm are rounded to 8), of animations the first frame
    counts, EXIF rotation is applied. Raises InputError for a damaged file.
    """
    try:
        return _decode(path)
    except Exception as error:  # Pillow's decoders raise exceptions of many kinds for a damaged file
        raise InputError(f"cannot decode {path} ({_reason(error)}); repair or remove it") from error


def pixels(image: Image.Image) -> UInt8[np.ndarray, "height width channel"]:
    """The levels of an image in one of `MODES`."""
    return np.asarray(image).reshape(image.height, image.width, -1)


def read_all(
    paths: Sequence[Path], convert: Callable[[Image.Image], np.ndarray] = pixels
) -> list[UInt8[np.ndarray, "height width channel"]]:
    """`convert(decode(path))` of many files, on all cores. A photograph that `convert` shrinks is not kept at full size.

    Raises InputError where files are damaged: it names them all, or the first ten and how many there are.
    """

    def read(path: Path) -> np.ndarray | Exception:
        try:
            return convert(_decode(path))
        except Exception as error:  # as in `decode`
            return error

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
        images = list(pool.map(read, paths))
    bad = [f"{path} ({_reason(image)})" for path, image in zip(paths, images, strict=True) if isinstance(image, Exception)]
    if len(bad) == 1:
        raise InputError(f"cannot decode {bad[0]}; repair or remove it")
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise InputError(
            f"cannot decode {len(bad)} of {len(paths)} files: {', '.join(bad[:SHOWN])}{more}; repair or remove them"
        )
    return images


def stack(
    paths: Sequence[Path], images: Sequence[np.ndarray], remedy: str = "make them alike"
) -> UInt8[np.ndarray, "n height width channel"]:
    """Images of one shape as one array. Raises InputError with `remedy`, naming two files, if they are not alike."""
    unlike = [i for i, image in enumerate(images) if image.shape != images[0].shape]
    if unlike:
        other = f"{paths[unlike[0]]} is {_describe(images[unlike[0]])}"
        count = f" ({len(unlike)} of {len(images)} differ from the first)" if len(unlike) > 1 else ""
        raise InputError(f"{paths[0]} is {_describe(images[0])} but {other}{count}; {remedy}")
    return np.stack(images)


def check_layout(x: np.ndarray, what: str) -> None:
    """Raises InputError for what looks like images [n, C, H, W], as PyTorch has them: here the channels come last."""
    if x.ndim == 4 and x.shape[1] in MODES and x.shape[-1] > max(MODES):
        raise InputError(
            f"{what} has shape {list(x.shape)}, which looks like [n, channels, height, width]; channels come last here: "
            "store x.transpose(0, 2, 3, 1)"
        )


def check_levels(x: np.ndarray, what: str) -> None:
    """Raises InputError for images of no level above 1, which are black to a viewer: they are 0..1, not 0..255."""
    if x.size and x.max() <= 1:
        raise InputError(
            f"{what} has no level above {x.max()}, but black is 0 and white 255; store 255 * x (of floats in [0, 1] "
            "np.round(255 * x).astype(np.uint8))"
        )


def _folders(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each real folder once, with the names of its files: those that lie below `folder`, then those that links lead to."""
    links, seen = [str(folder)], set()
    while links:
        for parent, subfolders, files in os.walk(links.pop(0), onerror=_refuse):
            if (real := os.path.realpath(parent)) in seen:
                subfolders.clear()  # prunes the walk, as the next line does
                continue
            seen.add(real)
            subfolders[:] = sorted(subfolder for subfolder in subfolders if not subfolder.startswith("."))
            links += [path for subfolder in subfolders if os.path.islink(path := os.path.join(parent, subfolder))]
            yield parent, files


def _refuse(error: OSError) -> None:
    raise InputError(f"cannot read {error.filename} ({error.strerror}); make it readable, or move it away") from error


def _decode(path: Path) -> Image.Image:
    with Image.open(path) as file:
        raw_mode, bits = file.tile[0].args if file.tile else "", _bits(file)
        image = ImageOps.exif_transpose(file)
        image.load()
        if isinstance(raw_mode, str) and raw_mode in TRANSPARENT and "transparency" in image.info:
            image.info["transparency"] = _each(TRANSPARENT[raw_mode], image.info["transparency"])
        return _to_known_mode(image, bits)


def _bits(file: Image.Image) -> int:
    """Of a pixel of one channel with more than 8 bits; 32 where the range of its levels is not known."""
    if file.mode == "I" and file.format == "PPM":
        return 16  # whatever the file's own maximum was: Pillow scales to 65535
    if file.format == "TIFF" and file.mode.startswith("I;16"):
        return file.tag_v2.get(258, (16,))[0]  # BitsPerSample, which may be 12
    return 16 if file.mode.startswith("I;16") else 32


def _each(fn: Callable[[int], int], level: Any) -> Any:
    return tuple(map(fn, level)) if isinstance(level, tuple) else fn(level)


def _to_known_mode(image: Image.Image, bits: int) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and bits == 16):
        levels = np.asarray(image)
        grey = Image.fromarray((levels >> (bits - 8)).astype(np.uint8))
        if "transparency" not in image.info:
            return grey
        grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
        return grey.convert("RGBA")
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels ({image.mode}) have no known range")
    if image.has_transparency_data:
        return image if image.mode == "RGBA" else image.convert("RGBA")
    if image.mode in MODES.values():
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _describe(image: np.ndarray) -> str:
    height, width, channels = image.shape
    return f"{width}x{height} {MODES[channels]}"
