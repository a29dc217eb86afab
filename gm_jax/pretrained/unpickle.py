"""Pickles and PyTorch's files, read without PyTorch and without running what they ask for.

A pickle is a small program: it names functions and classes, and calls them. Here it is answered by a short table of functions
that make arrays and containers, and, for names of the packages that checkpoints come from, by classes that keep what they are
called with and do nothing (`Inert`). Whatever else it names, it is refused.

PyTorch keeps the numbers outside the pickle: in a zip archive (since version 1.6), or one after the other behind it (before).
EDM's files are plain pickles whose tensors are such files again, byte for byte.
"""

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import jax.numpy as jnp
import numpy as np

from gm_jax.errors import InputError
from gm_jax.metrics.inception_weights import LEGACY_MAGIC, LEGACY_PROTOCOL

STORAGES = {
    "BFloat16Storage": jnp.bfloat16,
    "BoolStorage": "?",
    "ByteStorage": "u1",
    "CharStorage": "i1",
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "ShortStorage": "<i2",
}
# packages of the classes and functions that checkpoints name beside their tensors: kept, never called
HARMLESS = ("argparse", "dnnlib", "ml_collections", "torch", "torch_utils", "training")


class Inert:
    """Stands for an object of a class, or for the answer of a function, that is not at hand: what it was made of."""

    name = ""  # "package.module.name" of the class or function

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        self = object.__new__(cls)
        self.args, self.kwargs, self.state, self.entries = args, kwargs, {}, {}
        return self

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        self.entries[len(self.entries)] = value

    def extend(self, values: Any) -> None:
        for value in values:
            self.append(value)


def read(path: Path) -> Any:
    """What a file of PyTorch, or a plain pickle, holds: its containers, with arrays for tensors.

    Raises InputError where the file is damaged, in another form, or asks for more than the above.
    """
    try:
        with path.open("rb") as file:
            return _read(file)
    except Refused as error:
        raise InputError(f"{path} would run code: it asks for {error}; nothing of it was run, and it is not taken") from error
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{path} is damaged, or no file of PyTorch and no pickle ({reason}); fetch it again") from error


class Refused(pickle.UnpicklingError):
    """A pickle names what is neither in the table nor harmless."""


def _read(file: BinaryIO) -> Any:
    if zipfile.is_zipfile(file):
        return _read_zip(file)
    file.seek(0)
    first = _Unpickler(file).load()
    return _read_legacy(file) if first == LEGACY_MAGIC else first


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")

        def load(dtype, key, size):
            return np.frombuffer(archive.read(f"{folder}data/{key}"), dtype, size)

        return _Unpickler(io.BytesIO(archive.read(pickled)), load).load()


def _read_legacy(file: BinaryIO) -> Any:
    """Behind the magic number: version, system, content, names of the storages; then each storage after its size."""
    storages, end = {}, file.seek(0, io.SEEK_CUR)
    longest = file.seek(0, io.SEEK_END)
    file.seek(end)

    def allocate(dtype, key, size):
        if size * dtype.itemsize > longest:
            raise ValueError(f"storage {key} is longer than the file")
        return storages.setdefault(key, np.empty(size, dtype))

    if _Unpickler(file).load() != LEGACY_PROTOCOL:
        raise ValueError("it has another version of PyTorch's old format")
    _Unpickler(file).load()
    content = _Unpickler(file, allocate).load()  # tensors are views of storages that are filled now
    for key in _Unpickler(file).load():
        size = int.from_bytes(file.read(8), "little")
        if size != storages[key].size or file.readinto(storages[key].view(np.uint8)) != storages[key].nbytes:
            raise ValueError("it ends too early")
    return content


class _Unpickler(pickle.Unpickler):
    """`load(dtype, key, size)` gives the storage of that name, of which tensors are views."""

    def __init__(self, file: BinaryIO, load: Callable[..., np.ndarray] | None = None):
        super().__init__(file)
        self._load = load
        self._inert: dict[str, type[Inert]] = {}

    def persistent_load(self, saved_id: tuple) -> np.ndarray:
        _, dtype, key, _, size, *view = saved_id  # "storage", its type, its name, the device, its length
        if self._load is None or any(view):
            raise ValueError("storages that are parts of others are not supported")
        return self._load(dtype, key, size)

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in TABLE:
            return TABLE[full]
        if module in ("torch", "torch.storage") and name in STORAGES:
            return np.dtype(STORAGES[name])
        if module.split(".")[0] not in HARMLESS:
            raise Refused(full)
        return self._inert.setdefault(full, type(name, (Inert,), {"name": full}))


# --- the functions that a pickle may call -------------------------------------------------------------------------------------


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: Any) -> np.ndarray:
    if not isinstance(storage, np.ndarray):
        raise ValueError("a tensor has no numbers of its own")
    if 0 in shape:
        return np.empty(shape, storage.dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if min((offset, last, *shape, *strides)) < 0 or last >= storage.size:
        raise ValueError("a tensor reaches beyond its storage")
    steps = [stride * storage.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)


def _first(value: Any, *_: Any) -> Any:
    return value


def _storage(value: Any = None, *_: Any, wrap_storage: Any = None, **__: Any) -> Any:
    return value if wrap_storage is None else wrap_storage


def _nested(data: bytes) -> Any:
    return _read(io.BytesIO(data))


def _object(kind: Any, *_: Any) -> Any:
    """`copyreg._reconstructor`: an object without its constructor; its state comes later."""
    if not (isinstance(kind, type) and issubclass(kind, Inert)):
        raise Refused(f"an object of {getattr(kind, '__name__', kind)}")
    return kind()


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    return text.encode({"latin1": "latin1"}[encoding])


def _array(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    """What numpy begins an array with; its shape and numbers come later."""
    return np.ndarray.__new__(np.ndarray, (0,), "u1")


def _scalar(dtype: np.dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype, 1)[0]


TABLE: Mapping[str, Any] = {
    "_codecs.encode": _encoded,
    "builtins.bytearray": bytearray,
    "builtins.complex": complex,
    "builtins.dict": dict,
    "builtins.object": object,
    "builtins.set": set,
    "builtins.slice": slice,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": lambda *_: {},
    "copyreg._reconstructor": _object,
    "numpy.dtype": np.dtype,
    "numpy.ndarray": np.ndarray,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch.storage.TypedStorage": _storage,
    "torch.storage._load_from_bytes": _nested,
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _scalar for core in ("core", "_core")},
    # the names of old Pythons
    "__builtin__.dict": dict,
    "__builtin__.object": object,
    "__builtin__.set": set,
    "copy_reg._reconstructor": _object,
}
