"""Images to be judged: an array, a folder of image files, or an .npz file."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Array, Int, UInt8

from gm_jax.errors import InputError
from gm_jax.system import image_files

Source = str | Path | Array | np.ndarray


def read_images(source: Source) -> tuple[UInt8[np.ndarray, "n height width channel"], Int[np.ndarray, " n"] | None]:
    """uint8 images and, where there are any, their labels.

    Args:
      source: uint8 [n, H, W, C] (or [n, H, W]) of levels 0..255; a folder, whose image files of all depths are read in the
        order of their names and must be alike in size and channels (`system.image_files`); or an .npz file with such an array
        as `images` and, optionally, integers [n] as `labels`.

    Raises:
      InputError: nothing is there, it cannot be read, or it is not as above.
    """
    if not isinstance(source, str | Path):
        return _checked(np.asarray(source), "the array"), None
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        paths = [path / name for name in image_files.find(path)]
        return image_files.stack(paths, image_files.read_all(paths)), None
    if not os.path.exists(path):
        raise InputError(f"no folder or file {path}; give a folder of images, or an .npz file with images")
    return _from_npz(path)


def read_npz(path: Path, *keys: str) -> dict[str, np.ndarray]:
    """Those of the arrays `keys` that an .npz file has. Raises InputError if it cannot be read as one of plain arrays."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in keys if key in archive}
    # NumPy's own errors for a file that is no archive, holds Python objects, or is cut off; a bare .npy has no keys
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"cannot read {path} as an .npz file of plain arrays; write it with numpy.savez") from error


def _from_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = read_npz(path, "images", "labels")
    if "images" not in arrays:
        raise InputError(f"{path} has no array named images; write it with numpy.savez(path, images=...)")
    images, labels = _checked(arrays["images"], f"images of {path}"), arrays.get("labels")
    if labels is not None and (labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]):
        raise InputError(f"labels of {path} are {labels.dtype} {list(labels.shape)}; give one integer for each of the images")
    return images, labels


def _checked(images: np.ndarray, what: str) -> np.ndarray:
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise InputError(f"{what} has shape {list(images.shape)}; give images as [n, height, width, channels]")
    if images.dtype != np.uint8:
        raise InputError(f"{what} is {images.dtype}, not uint8; round floats in [-1, 1] with gm_jax.images.to_uint8")
    image_files.check_layout(images, what)
    if images.max() == 1:  # all black images may be judged
        image_files.check_levels(images, what)
    return images if images.ndim == 4 else images[..., None]
