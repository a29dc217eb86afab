"""Fakes of the official files, and what every test of the sources says of a data set."""

import hashlib
import io
import pickle
import struct
import tarfile

import numpy as np
import pytest

from gm_jax.data.sources import load
from gm_jax.errors import InputError


def random_images(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def error_line(*args, **kwargs):
    """The message of the InputError that `load` raises, which must be one line."""
    with pytest.raises(InputError) as error:
        load(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def assert_well_formed(dataset):
    for x in (dataset.x_train, dataset.x_test):
        assert x.dtype == np.uint8 and x.flags.c_contiguous and x.shape[1:] == dataset.image_shape
    for y in (dataset.y_train, dataset.y_test):
        assert (y is None) == (dataset.class_names is None)
        assert y is None or (y.dtype == np.int32 and y.flags.c_contiguous)


def idx(array):
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def assert_is_fake_mnist(dataset):
    assert_well_formed(dataset)
    assert dataset.image_shape == (28, 28, 1) and dataset.class_names == tuple("0123456789")
    np.testing.assert_array_equal(dataset.x_train[..., 0], random_images(12, 28, 28))
    np.testing.assert_array_equal(dataset.x_test[..., 0], random_images(5, 28, 28, seed=1))
    np.testing.assert_array_equal(dataset.y_train, np.arange(12) % 10)


CIFAR_IMAGES = random_images(60, 32, 32, 3)
CIFAR_LABELS = np.random.default_rng(1).permuted(np.tile(np.arange(10), (6, 1)), axis=1).reshape(-1)


def python2_pickle(data, labels):
    """{"data": data, "labels": labels} in the opcodes of Python 2 and the NumPy of 2009, as in the official archive."""
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    shape = b"(" + b"".join(b"M" + struct.pack("<H", size) for size in data.shape) + b"t"
    array = empty + b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", data.nbytes) + data.tobytes() + b"tb"
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels](" + numbers + b"eu."


def cifar_batches(version):
    """File name -> content of six batches of ten images."""
    planes = np.ascontiguousarray(CIFAR_IMAGES.transpose(0, 3, 1, 2)).reshape(60, 3072)
    batches = {}
    for i, name in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        rows = slice(10 * i, 10 * i + 10)
        if version == "bin":
            labelled = np.concatenate([CIFAR_LABELS[rows, None].astype(np.uint8), planes[rows]], 1)
            batches[f"{name}.bin"] = labelled.tobytes()
        elif version == "py2":
            batches[name] = python2_pickle(planes[rows], CIFAR_LABELS[rows].tolist())
        else:
            batches[name] = pickle.dumps({b"data": planes[rows], b"labels": CIFAR_LABELS[rows].tolist()}, protocol=4)
    return batches


def write_cifar(folder, version, archive=None):
    """The batches in a folder, or in an archive; returns the md5 of the latter."""
    subfolder = "cifar-10-batches-bin" if version == "bin" else "cifar-10-batches-py"
    files = {f"{subfolder}/{name}": content for name, content in cifar_batches(version).items()}
    files[f"{subfolder}/readme.html"] = b"not a batch"
    if archive is None:
        (folder / subfolder).mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return None
    with tarfile.open(folder / archive, "w:gz") as tar:
        for name, content in reversed(files.items()):  # the order within the archive must not matter
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return hashlib.md5((folder / archive).read_bytes()).hexdigest()


def assert_is_fake_cifar(dataset):
    assert_well_formed(dataset)
    assert dataset.image_shape == (32, 32, 3) and dataset.class_names[3] == "cat"
    np.testing.assert_array_equal(dataset.x_train, CIFAR_IMAGES[:50])
    np.testing.assert_array_equal(dataset.x_test, CIFAR_IMAGES[50:])
    np.testing.assert_array_equal(dataset.y_train, CIFAR_LABELS[:50])
    np.testing.assert_array_equal(dataset.y_test, CIFAR_LABELS[50:])
