"""`arrays:/path.npz`: images that the user has put into one NumPy archive."""

import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from gm_jax.data.dataset import Dataset, as_images, as_labels
from gm_jax.errors import InputError
from gm_jax.system import image_files


def load(path: str) -> Dataset:
    """Reads an .npz file with `x_train` and `x_test` (uint8 [n, H, W, C], or [n, H, W] for one channel) and, both or neither,
    `y_train` and `y_test` (integers [n]; classes 0..K-1, each of which occurs in `y_train`).

    Both splits are required: arrays are often sorted by class, so any split made here would be a bad guess. Classes are named
    by their numbers.

    Raises:
      InputError: the file, an array's type, shape or label range is not as above; images look like [n, C, H, W], or have no
        level above 1 (of 0..255).
    """
    file = Path(os.path.expanduser(path))
    arrays = _read(file)
    for key in ("x_train", "x_test"):
        if key not in arrays:
            raise InputError(f"{file} lacks {key}; it needs x_train and x_test, and y_train and y_test if there are labels")
        _check_images(file, key, arrays[key])
    x_train, x_test = as_images(arrays["x_train"]), as_images(arrays["x_test"])
    if x_train.shape[1:] != x_test.shape[1:]:
        raise InputError(f"{file}: images of x_train are {x_train.shape[1:]}, of x_test {x_test.shape[1:]}; make them equal")
    if ("y_train" in arrays) != ("y_test" in arrays):
        raise InputError(f"{file} has labels for one split only; store both y_train and y_test, or neither")
    if "y_train" not in arrays:
        return Dataset(file.stem, x_train, None, x_test, None, None)
    _check_labels(file, "y_train", arrays["y_train"], len(x_train))
    _check_labels(file, "y_test", arrays["y_test"], len(x_test))
    num_classes = _check_classes(file, arrays["y_train"], arrays["y_test"])
    class_names = tuple(str(label) for label in range(num_classes))
    return Dataset(file.stem, x_train, as_labels(arrays["y_train"]), x_test, as_labels(arrays["y_test"]), class_names)


def _read(file: Path) -> dict[str, np.ndarray]:
    if not os.path.isfile(file):
        raise InputError(f"no file {file}; arrays: takes the path of an .npz file")
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in ("x_train", "y_train", "x_test", "y_test") if key in archive}
    # NumPy's own errors for a file that is no archive, holds Python objects, or is cut off; a bare .npy has no keys
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"cannot read {file} as an .npz file of plain arrays; write it with numpy.savez") from error


def _check_images(file: Path, key: str, x: np.ndarray) -> None:
    if x.dtype != np.uint8:
        how = "np.round(255 * x).astype(np.uint8) for x in [0, 1]" if x.dtype.kind == "f" else "x.astype(np.uint8)"
        raise InputError(f"{file}: {key} is {x.dtype}, not uint8; store whole numbers 0..255, e.g. {how}")
    if x.ndim not in (3, 4) or 0 in x.shape:
        raise InputError(f"{file}: {key} has shape {x.shape}; it must be [n, H, W, C] or [n, H, W], and not empty")
    image_files.check_layout(x, f"{file}: {key}")
    image_files.check_levels(x, f"{file}: {key}")


def _check_labels(file: Path, key: str, y: np.ndarray, n: int) -> None:
    if y.dtype.kind not in "iu":
        raise InputError(f"{file}: {key} is {y.dtype}; labels must be integers, e.g. y.astype(np.int32)")
    if y.shape != (n,):
        raise InputError(f"{file}: {key} has shape {y.shape}; it must be ({n},), one label per image")


def _check_classes(file: Path, y_train: np.ndarray, y_test: np.ndarray) -> int:
    present = np.unique(y_train)
    num_classes = len(present)
    if present[0] != 0 or present[-1] != num_classes - 1:
        raise InputError(
            f"{file}: the {num_classes} labels of y_train lie in {present[0]}..{present[-1]}; "
            "number the classes 0..K-1 without gaps, e.g. by np.unique(y, return_inverse=True)"
        )
    if y_test.min() < 0 or y_test.max() >= num_classes:
        raise InputError(f"{file}: y_test has labels {y_test.min()}..{y_test.max()}, but y_train only 0..{num_classes - 1}")
    return num_classes
