"""Where data comes from: `load(name)` returns any of the sources as one `Dataset`, of uint8 images or of float32 points."""

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gm_jax.data import arrays, binary, folder, official, stacked, tfds, toys
from gm_jax.data.dataset import Dataset, as_images, as_labels
from gm_jax.errors import InputError
from gm_jax.system.cache import cache_dir


def load(name: str, dir: str = "", resize: int = 0) -> Dataset:
    """Loads the data set that `name` calls, into host memory.

    Args:
      name: "digits", "cifar10", "mnist", "binary_digits", "binary_mnist", "stacked_digits", "stacked_mnist", a 2-D toy ("ring",
        "grid25", "moons", "checkerboard", "swissroll"), "folder:/path" or "arrays:/path.npz".
      dir: for cifar10 and all forms of mnist: the folder that holds a prepared TFDS directory or the official files; if it
        has neither, the latter are downloaded into it. Empty: TFDS's own folder, then ~/.cache/gm_jax.
      resize: for folder: side in pixels of the square that each image becomes; 0 leaves images as they are.

    Raises:
      InputError: an unknown name, an option that the source does not take, or data that is missing, damaged or of a wrong form.
    """
    kind, _, path = name.partition(":")
    if kind not in SOURCES:
        nearest = difflib.get_close_matches(kind, SOURCES, n=1)
        hint = f" (did you mean {nearest[0]}?)" if nearest else ""
        known = [name for name in SOURCES if name not in ("folder", "arrays")]
        raise InputError(f"unknown data.name {name!r}{hint}; known are {', '.join(known)}, folder:/path, arrays:/path.npz")
    source = SOURCES[kind]
    given = {"path": path, "dir": dir, "resize": resize}
    for option, value in given.items():
        if value and option not in source.options:
            raise InputError(f"{kind} takes no {option} (given: {value}); only {_takers(option)} does, so leave it out")
    if "path" in source.options and not path:
        raise InputError(f"data.name {name!r} lacks a path; write {kind}:/path")
    if resize < 0:
        raise InputError(f"data.resize is {resize}; give a side in pixels, or 0 to leave images as they are")
    return source.load(**{option: given[option] for option in source.options})


def absolute(name: str) -> str:
    """The same data set with the path of a folder or file made absolute, so that it is found from any directory."""
    kind, colon, path = name.partition(":")
    return f"{kind}:{Path(path).expanduser().absolute()}" if colon and path else name


def load_digits() -> Dataset:
    """scikit-learn's 1797 handwritten digits, 8x8x1, which come with that package.

    Its grey values v in 0..16 become round(255 v / 16). Within each class, in the stored order, every sixth image is a test
    image: 1501 for training and 296 for the test, with all classes alike in both.
    """
    from sklearn.datasets import load_digits as load_from_sklearn

    digits = load_from_sklearn()
    x, y = as_images(np.rint(digits.images * (255 / 16))), as_labels(digits.target)
    rank_in_class = np.array([np.count_nonzero(y[:i] == label) for i, label in enumerate(y)])
    test = rank_in_class % 6 == 5
    return Dataset("digits", x[~test], y[~test], x[test], y[test], tuple(str(digit) for digit in range(10)))


def load_standard(name: str, dir: str) -> Dataset:
    """CIFAR-10 or MNIST: prepared by TFDS if it is so in `dir`, else from the official files, else downloaded."""
    prepared_root = Path(dir).expanduser() if dir else tfds.default_dir()
    files_root = Path(dir).expanduser() if dir else cache_dir(name)
    if prepared := tfds.find(name, prepared_root):
        return tfds.load(name, prepared)
    if found := official.find(name, files_root):
        return found
    try:
        return official.fetch(name, files_root)
    except OSError as error:
        raise InputError(
            f"{name} is neither prepared by TFDS (as array_record) in {prepared_root / name} nor are its files "
            f"({', '.join(official.OFFICIAL[name].files)}) in {files_root}, and they cannot be downloaded ({error}); "
            "put the files there, or set data.dir to where they are"
        ) from error


class Source(NamedTuple):
    """A loader and those of `path`, `dir` and `resize` that it takes, by keyword."""

    load: Callable[..., Dataset]
    options: tuple[str, ...] = ()


SOURCES = {
    "digits": Source(load_digits),
    "cifar10": Source(partial(load_standard, "cifar10"), ("dir",)),
    "mnist": Source(partial(load_standard, "mnist"), ("dir",)),
    "binary_digits": Source(lambda: binary.binarize(load_digits())),
    "binary_mnist": Source(lambda dir: binary.binarize(load_standard("mnist", dir)), ("dir",)),
    "stacked_digits": Source(lambda: stacked.stack(load_digits())),
    "stacked_mnist": Source(lambda dir: stacked.stack(load_standard("mnist", dir)), ("dir",)),
    **{name: Source(partial(toys.load, name)) for name in toys.TOYS},
    "folder": Source(folder.load, ("path", "resize")),
    "arrays": Source(arrays.load, ("path",)),
}


def _takers(option: str) -> str:
    return " or ".join(name for name, source in SOURCES.items() if option in source.options)
