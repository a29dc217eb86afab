"""Reads the tensors of a network from PyTorch's `.pth` files, or from `.npz`, with NumPy alone.

A `.pth` is a pickle of a dict of tensors, whose numbers lie outside the pickle: in a zip archive (since PyTorch 1.6), or one
after the other behind the pickle (before). Unpickling usually may run any code: here it can name the few types below, no other.
"""

import collections
import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gm_jax.errors import InputError

DTYPES = {"FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4"}
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """Name -> array of the file's tensors, in PyTorch's layout and dtype.

    Raises InputError where the file is absent, is in neither form, is damaged, or holds anything but tensors.
    """
    path = Path(os.path.expanduser(path))
    if not os.path.isfile(path):
        raise InputError(f"there is no file of weights at {path}; give the path of a .pth or an .npz")
    try:
        tensors = _read_npz(path) if path.suffix == ".npz" else _read_pth(path)
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{path} is damaged or no file of tensors ({reason}); give a state dict as .pth, or an .npz"
        ) from error
    if not all(isinstance(name, str) and isinstance(value, np.ndarray) for name, value in tensors.items()):
        raise InputError(f"{path} holds more than named tensors; save the network's state dict alone")
    return tensors


def sha256(path: str | Path) -> str:
    """The digest of a file's content, in hexadecimal."""
    with open(os.path.expanduser(path), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _read_pth(path: Path) -> dict[str, np.ndarray]:
    return dict(_read_zip(path) if zipfile.is_zipfile(path) else _read_legacy(path))


def _read_zip(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")

        def load(dtype, key, size):
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype, size)

        with archive.open(pickled) as file:
            return _Unpickler(file, load).load()


def _read_legacy(path: Path) -> dict[str, np.ndarray]:
    """Five pickles (magic number, version, system, tensors, order of the storages), then each storage after its size."""
    storages = {}

    def allocate(dtype, key, size):
        if size * dtype.itemsize > path.stat().st_size:
            raise ValueError(f"storage {key} is longer than the file")
        return storages.setdefault(key, np.empty(size, dtype))

    with path.open("rb") as file:
        if (_Unpickler(file).load(), _Unpickler(file).load()) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
            raise ValueError("its first bytes are not PyTorch's")
        _Unpickler(file).load()
        tensors = _Unpickler(file, allocate).load()  # views of storages that are filled now
        for key in _Unpickler(file).load():
            _fill(storages[key], file)
    return tensors


def _fill(storage: np.ndarray, file: BinaryIO) -> None:
    size = int.from_bytes(file.read(8), "little")
    if size != storage.size or file.readinto(storage.view(np.uint8)) != storage.nbytes:
        raise ValueError("it ends too early")


class _Unpickler(pickle.Unpickler):
    """Rebuilds tensors as views of the arrays that `load(dtype, key, size)` returns."""

    def __init__(self, file: BinaryIO, load: Callable[..., np.ndarray] | None = None):
        super().__init__(file)
        self._load = load

    def persistent_load(self, saved_id: tuple) -> np.ndarray:
        _, dtype, key, _, size, *view = saved_id  # "storage", its type, its name, the device, its length
        if any(view):
            raise ValueError("storages that are parts of others are not supported")
        return self._load(dtype, key, size)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _parameter
        if module == "torch" and name in DTYPES:
            return np.dtype(DTYPES[name])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((offset, last, *shape, *strides)) < 0 or last >= storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _parameter(tensor: np.ndarray, *_: Any) -> np.ndarray:
    return tensor
