"""CIFAR-10 and MNIST in the files that their authors publish: found in a folder, or downloaded into it.

CIFAR-10: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). MNIST: LeCun, Bottou, Bengio, Haffner,
"Gradient-Based Learning Applied to Document Recognition" (1998).
"""

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gm_jax.data.dataset import Dataset, as_images, as_labels
from gm_jax.errors import InputError
from gm_jax.system.download import download

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_ARCHIVES = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
}
CIFAR10_FOLDERS = {
    "cifar-10-batches-py": tuple(f"data_batch_{i}" for i in range(1, 6)) + ("test_batch",),
    "cifar-10-batches-bin": tuple(f"data_batch_{i}.bin" for i in range(1, 6)) + ("test_batch.bin",),
}
CIFAR10_BATCH = 10_000  # images per file

MNIST_DOWNLOADS = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
MNIST_CONTENTS = {  # uncompressed, so that a file compressed anew is as good as the original
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Official(NamedTuple):
    """How one data set is read from a folder (None: it is not there), and where its files (name -> md5) are downloaded."""

    read: Callable[[Path], Dataset | None]
    files: dict[str, str]
    mirrors: tuple[str, ...]


def find(name: str, folder: Path) -> Dataset | None:
    """Reads the data set's official files from `folder`; None if they are not (all) there.

    Raises:
      InputError: a file is there but is damaged: its md5, structure or number of images per class is not the official one.
    """
    return OFFICIAL[name].read(folder)


def fetch(name: str, folder: Path) -> Dataset:
    """Downloads those official files that `folder` lacks, checks their md5, and reads them.

    Raises:
      OSError: a file cannot be downloaded or stored; the message names each address that was tried.
    """
    _, files, mirrors = OFFICIAL[name]
    for file, md5 in files.items():
        if not (folder / file).exists():
            download([mirror + file for mirror in mirrors], folder / file, md5)
    return find(name, folder)


def read_cifar10(folder: Path) -> Dataset | None:
    """CIFAR-10 from its archive (Python or binary version) or the folder that it unpacks to, in the official order."""
    for archive, md5 in CIFAR10_ARCHIVES.items():
        if os.path.isfile(folder / archive):  # which it is not, either, in a folder that must not be read
            return _decode_cifar10(folder / archive, _unpack(folder / archive, md5))
    for subfolder, names in CIFAR10_FOLDERS.items():
        for place in (folder / subfolder, folder):
            if all(os.path.isfile(place / name) for name in names):
                return _decode_cifar10(place, {name: (place / name).read_bytes() for name in names})
    return None


def _unpack(archive: Path, md5: str) -> dict[str, bytes]:
    if hashlib.md5(archive.read_bytes()).hexdigest() != md5:
        raise InputError(f"{archive} is damaged or not the official file (its md5 is not {md5}); remove it to download it anew")
    wanted = {name for names in CIFAR10_FOLDERS.values() for name in names}
    with tarfile.open(archive, "r:gz") as tar:
        return {Path(m.name).name: tar.extractfile(m).read() for m in tar if m.isfile() and Path(m.name).name in wanted}


def _decode_cifar10(place: Path, files: dict[str, bytes]) -> Dataset:
    decode = _decode_binary_batch if "test_batch.bin" in files else _decode_python_batch
    try:
        batches = {name: decode(content) for name, content in files.items()}
    except Exception as error:  # damaged pickles raise exceptions of many kinds
        raise InputError(f"{place} holds damaged CIFAR-10 batches ({error}); unpack the official archive anew") from error
    *train, (x_test, y_test) = (batches[name] for name in sorted(batches))  # data_batch_1 .. data_batch_5, test_batch
    x_train, y_train = (np.concatenate(parts) for parts in zip(*train, strict=True))
    for y in (y_train, y_test):
        if any(10 * np.count_nonzero(y == label) != len(y) for label in range(10)):
            raise InputError(f"{place} is not CIFAR-10: its classes are not equally frequent; unpack the official archive anew")
    return Dataset("cifar10", as_images(x_train), as_labels(y_train), as_images(x_test), as_labels(y_test), CIFAR10_CLASSES)


def _decode_binary_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    records = np.frombuffer(content, np.uint8).reshape(CIFAR10_BATCH, 1 + 3 * 32 * 32)  # a label, then the channels' planes
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]


def _decode_python_batch(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
    planes, labels = batch["data"].reshape(CIFAR10_BATCH, 3, 32, 32), np.asarray(batch["labels"]).reshape(CIFAR10_BATCH)
    if planes.dtype != np.uint8:
        raise ValueError(f"pixels are {planes.dtype}, not uint8")
    return planes.transpose(0, 2, 3, 1), labels


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays and built-in containers and nothing else: other pickles could run any code."""

    _reconstruct = np.empty(0).__reduce__()[0]  # NumPy has moved this function between modules that it calls private
    _allowed = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in an array")
        return self._allowed[module, name]


def read_mnist(folder: Path) -> Dataset | None:
    """MNIST from its four idx files, each raw or with suffix .gz, in the official order."""
    paths = {name: path for name in MNIST_CONTENTS for path in (folder / name, folder / f"{name}.gz") if os.path.isfile(path)}
    if len(paths) < len(MNIST_CONTENTS):
        return None
    x_train, y_train, x_test, y_test = (_read_idx(paths[name], md5) for name, md5 in MNIST_CONTENTS.items())
    class_names = tuple(str(digit) for digit in range(10))
    return Dataset("mnist", as_images(x_train), as_labels(y_train), as_images(x_test), as_labels(y_test), class_names)


def _read_idx(path: Path, md5: str) -> np.ndarray:
    """The array in an idx file: two zero bytes, 8 for uint8, the rank, each dimension as big-endian int32, the bytes.

    The md5 settles that the structure is right.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}); remove it to download it anew") from error
    if hashlib.md5(content).hexdigest() != md5:
        raise InputError(
            f"{path} is damaged or not MNIST's (the md5 of its content is not {md5}); remove it to download it anew"
        )
    rank = content[3]
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


OFFICIAL = {
    "cifar10": Official(
        read_cifar10,
        {"cifar-10-python.tar.gz": CIFAR10_ARCHIVES["cifar-10-python.tar.gz"]},
        ("https://www.cs.toronto.edu/~kriz/",),
    ),
    "mnist": Official(
        read_mnist,
        MNIST_DOWNLOADS,
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    ),
}
