"""What a data set is, whatever it is called and wherever it lies."""

import hashlib
import json
from typing import Any

import numpy as np

from gm_jax.data.dataset import Dataset


def content_digest(dataset: Dataset) -> str:
    """sha256 over both splits' images (or points), in their order, their labels, and the names of the classes, in theirs.

    Not over the data set's own name: data that have moved or were renamed remain the same. 184 MB (CIFAR-10) take a fraction
    of a second to a second.
    """
    sha = hashlib.sha256(json.dumps(dataset.class_names).encode())
    for split in ("x_train", "y_train", "x_test", "y_test"):
        _add(sha, split, getattr(dataset, split))
    return sha.hexdigest()


def _add(sha: Any, name: str, array: np.ndarray | None) -> None:
    if array is None:
        sha.update(f"\n{name} none\n".encode())
        return
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))  # the same on every machine
    sha.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
    sha.update(array.data if array.size else b"")
