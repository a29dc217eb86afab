"""The one form in which every source returns its images."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int32, UInt8


class Dataset(NamedTuple):
    """A data set in host memory: uint8 images (or float32 points) and, where there are any, labels that index `class_names`."""

    name: str
    x_train: UInt8[np.ndarray, "train height width channel"] | Float32[np.ndarray, "train dim"]
    y_train: Int32[np.ndarray, " train"] | None
    x_test: UInt8[np.ndarray, "test height width channel"] | Float32[np.ndarray, "test dim"]
    y_test: Int32[np.ndarray, " test"] | None
    class_names: tuple[str, ...] | None  # None exactly where the labels are None
    base: "Dataset | None" = None  # of stacked images: the data set that each channel comes from
    binarize: bool = False  # a level of a training image is the probability of white, and drawn for every batch

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels) of every image of either split; (dim,) of points."""
        return tuple(self.x_train.shape[1:])

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None when the data set is unlabelled."""
        return None if self.class_names is None else len(self.class_names)


def subset(size: int, n: int) -> Int32[np.ndarray, " n"]:
    """The rows of n of `size` examples, chosen at random but always the same; all in their order where there are no more.

    Not the first ones: data are often sorted by class. A smaller n gives the beginning of what a larger one gives.
    """
    if n >= size:
        return np.arange(size, dtype=np.int32)
    bits = np.random.Philox(key=np.array([0, size], np.uint64)).random_raw(size)  # a stream that is fixed across NumPy versions
    return np.argsort(bits, kind="stable")[:n].astype(np.int32)


def data_variance(x: np.ndarray) -> float:
    """The variance of all numbers of a split, images taken in [-1, 1]. In float64; by blocks, to spare memory."""
    scale = 127.5 if x.dtype == np.uint8 else 1.0
    blocks = np.array_split(x, max(1, len(x) // 4096))
    sums = np.sum([(block.sum(dtype=np.float64), np.square(block, dtype=np.float64).sum()) for block in blocks], axis=0)
    mean, square = sums / x.size
    return float((square - mean**2) / scale**2)


def as_images(x: np.ndarray) -> UInt8[np.ndarray, "n height width channel"]:
    """`x` [n, H, W] or [n, H, W, C] of whole numbers in 0..255, as C-contiguous uint8 [n, H, W, C]."""
    return np.ascontiguousarray(x if x.ndim == 4 else x[..., None], dtype=np.uint8)


def as_labels(y: np.ndarray) -> Int32[np.ndarray, " n"]:
    """Integer labels as C-contiguous int32."""
    return np.ascontiguousarray(y, dtype=np.int32)
