"""`folder:/path`: a folder of image files, class = subfolder."""

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from gm_jax.data.dataset import Dataset, as_images, as_labels
from gm_jax.errors import InputError
from gm_jax.system import image_files


def load(path: str, resize: int = 0) -> Dataset:
    """Reads all images below a folder, in the order of their names.

    Classes are the subfolders that hold images, sorted by name; images directly in the folder make an unlabelled data set. If
    the folder has subfolders `train` and `test`, these are the splits, else the tenth of the files (at least one) whose
    relative paths have the smallest md5 is the test split. Hidden files and other files than images are ignored; links to
    folders are followed, each folder once.

    Grey images have 1 channel, RGB 3, with transparency of any kind 4 (RGBA); other colour spaces become RGB, 16-bit channels
    keep their upper 8 bits, of animations the first frame counts, EXIF rotation is applied (`system.image_files`).

    With `resize` > 0 each image is cropped to its central square and resized to that side (bicubic, antialiased), and a mix of
    channel counts is brought, without loss, to the largest among them. With `resize` 0 all images must already be alike.

    Raises:
      InputError: no folder, no images, unlike images without `resize`, undecodable files, unclear splits or classes, images of
        no level above 1 (of 0..255).
    """
    root = Path(os.path.expanduser(path))
    if not os.path.isdir(root):
        raise InputError(f"no folder {root}; folder: takes the path of a folder of images")
    train, test = _splits(root)
    class_names = _classes(train + test)
    untrained = set(class_names or ()) - {name.parts[0] for _, name in train}
    if untrained:
        raise InputError(f"{root}: no training image is of class {min(untrained)}; add some, or remove or rename the class")
    images = _read_all([split / name for split, name in train + test], resize)
    image_files.check_levels(images, str(root))
    x_train, x_test = as_images(images[: len(train)]), as_images(images[len(train) :])
    if class_names is None:
        return Dataset(root.resolve().name, x_train, None, x_test, None, None)
    y_train, y_test = (as_labels(np.array([class_names.index(name.parts[0]) for _, name in s])) for s in (train, test))
    return Dataset(root.resolve().name, x_train, y_train, x_test, y_test, class_names)


Files = list[tuple[Path, Path]]  # of each file the folder of its split, and its path relative to that


def _splits(root: Path) -> tuple[Files, Files]:
    present = [split for split in ("train", "test") if os.path.isdir(root / split)]
    if len(present) == 1:
        raise InputError(f"{root} has {present[0]}/ only; give it both train/ and test/, or neither for a 90/10 split")
    if present:
        return _list(root / "train"), _list(root / "test")
    files = _list(root)
    if len(files) < 2:
        raise InputError(f"{root} holds a single image; a training and a test split need at least two")
    by_hash = sorted(files, key=lambda file: hashlib.md5(file[1].as_posix().encode()).digest())
    held_out = set(by_hash[: max(1, len(files) // 10)])
    return [file for file in files if file not in held_out], [file for file in files if file in held_out]


def _list(split: Path) -> Files:
    return [(split, name) for name in image_files.find(split)]


def _classes(files: Files) -> tuple[str, ...] | None:
    flat = [split / name for split, name in files if len(name.parts) == 1]
    nested = [split / name for split, name in files if len(name.parts) > 1]
    if flat and nested:
        raise InputError(f"{nested[0]} is in a class folder but {flat[0]} is in none; move images of one kind away")
    return tuple(sorted({name.parts[0] for _, name in files})) if nested else None


def _read_all(paths: list[Path], resize: int) -> np.ndarray:
    images = image_files.read_all(paths, lambda image: image_files.pixels(_square(image, resize) if resize else image))
    if resize:
        channels = max(image.shape[-1] for image in images)
        images = [_with_channels(image, channels) for image in images]
    remedy = "make them alike, or set data.resize to the side of the square that all shall become"
    return image_files.stack(paths, images, remedy)


def _square(image: Image.Image, side: int) -> Image.Image:
    crop = min(image.size)
    left, top = (image.width - crop) // 2, (image.height - crop) // 2
    return image.crop((left, top, left + crop, top + crop)).resize((side, side), Image.Resampling.BICUBIC)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    if image.shape[-1] == channels:
        return image
    grey_or_rgb = image[..., 0] if image.shape[-1] == 1 else image
    return np.asarray(Image.fromarray(grey_or_rgb).convert(image_files.MODES[channels]))
