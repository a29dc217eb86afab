"""The official files of MNIST and CIFAR-10: read, checked, downloaded."""

import gzip
import io
import os
import pickle
import threading
import time
import urllib.request

import pytest

from gm_jax.data import official
from gm_jax.data.sources import load
from gm_jax.system import download
from tests.data.support import (
    assert_is_fake_cifar,
    assert_is_fake_mnist,
    error_line,
    write_cifar,
)


def test_mnist_from_raw_and_compressed_files(tmp_path, fake_mnist):
    for i, (name, content) in enumerate(fake_mnist.items()):
        if i % 2:
            (tmp_path / name).write_bytes(content)
        else:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content, compresslevel=1))
    assert_is_fake_mnist(load("mnist", dir=str(tmp_path)))


def test_mnist_damaged_files(tmp_path, fake_mnist):
    for name, content in fake_mnist.items():
        (tmp_path / name).write_bytes(content)
    images = tmp_path / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1] + b"\0")
    assert "train-images-idx3-ubyte is damaged" in error_line("mnist", dir=str(tmp_path))
    images.unlink()
    images.with_suffix(".gz").write_bytes(gzip.compress(fake_mnist[images.name])[:-20])
    assert "train-images-idx3-ubyte.gz is damaged" in error_line("mnist", dir=str(tmp_path))


# --- downloads


def test_without_network_one_line_within_seconds(tmp_path, no_network):
    start = time.monotonic()
    for name, file in (("cifar10", "cifar-10-python.tar.gz"), ("mnist", "t10k-labels-idx1-ubyte.gz")):
        for place in ("", str(tmp_path / "given")):
            message = error_line(name, dir=place)
            assert file in message and "no network" in message and "data.dir" in message
            assert (str(tmp_path / "given") if place else str(tmp_path / "cache" / name)) in message
            assert (str(tmp_path / "no_tfds") in message) == (not place)
    assert time.monotonic() - start < 2
    assert len(no_network) == 2 * (1 + 2), "each mirror of the first file, and no more"
    assert list(tmp_path.iterdir()) == [], "a failed download must leave nothing behind"


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch, no_network):
    release = threading.Event()
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: release.wait(30))
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.1)
    start = time.monotonic()
    assert "no answer within 0.1 s" in error_line("mnist", dir=str(tmp_path))
    assert time.monotonic() - start < 2
    release.set()


def test_download_checks_md5_and_falls_back_to_the_second_mirror(tmp_path, monkeypatch, fake_mnist, no_network):
    served = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in fake_mnist.items()}
    first, second = official.OFFICIAL["mnist"].mirrors

    def serve(url, timeout):
        content = served[url.rpartition("/")[2]]
        return io.BytesIO(content[:-1] if url.startswith(first) else content)  # the first mirror cuts files short

    monkeypatch.setattr(urllib.request, "urlopen", serve)
    place = tmp_path / "new" / "mnist"
    assert_is_fake_mnist(load("mnist", dir=str(place)))
    assert sorted(path.name for path in place.iterdir()) == sorted(served), "no partial file is left"
    monkeypatch.setattr(urllib.request, "urlopen", None)
    assert_is_fake_mnist(load("mnist", dir=str(place)))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"content"))
    (tmp_path / "file").touch()
    message = error_line("mnist", dir=str(tmp_path / "file" / "mnist"))
    assert message.count("https://") == 2 and "set data.dir" in message, "every mirror was tried"


def test_download_that_is_wrong_everywhere_leaves_nothing(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"<html>sorry</html>"))
    assert "served 18 bytes" in error_line("cifar10", dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


# --- CIFAR-10


@pytest.mark.parametrize("version", ["py2", "py3", "bin"])
def test_cifar10_from_its_folder(tmp_path, small_batches, version):
    write_cifar(tmp_path, version)
    assert_is_fake_cifar(load("cifar10", dir=str(tmp_path)))
    assert_is_fake_cifar(load("cifar10", dir=str(next(tmp_path.iterdir()))))


@pytest.mark.parametrize(("version", "archive"), [("py2", "cifar-10-python.tar.gz"), ("bin", "cifar-10-binary.tar.gz")])
def test_cifar10_from_its_archive(tmp_path, monkeypatch, small_batches, version, archive):
    md5 = write_cifar(tmp_path, version, archive)
    assert f"{archive} is damaged" in error_line("cifar10", dir=str(tmp_path)), "not the official md5"
    monkeypatch.setitem(official.CIFAR10_ARCHIVES, archive, md5)
    assert_is_fake_cifar(load("cifar10", dir=str(tmp_path)))


def test_cifar10_damaged_folders(tmp_path, small_batches):
    write_cifar(tmp_path, "bin")
    batch = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    whole = batch.read_bytes()
    batch.write_bytes(whole[:-1])
    assert "damaged CIFAR-10 batches" in error_line("cifar10", dir=str(tmp_path))
    batch.write_bytes(bytes([(whole[0] + 1) % 10]) + whole[1:])
    assert "not equally frequent" in error_line("cifar10", dir=str(tmp_path))


def test_cifar10_pickles_cannot_run_code(tmp_path, small_batches):
    write_cifar(tmp_path, "py3")
    witness = tmp_path / "witness"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(witness),)

    (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps({b"data": Attack(), b"labels": []}))
    assert "has no place in an array" in error_line("cifar10", dir=str(tmp_path))
    assert not witness.exists()
