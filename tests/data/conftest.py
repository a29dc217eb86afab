"""Fixtures of the tests of data sources."""

import gzip
import hashlib
import urllib.request

import numpy as np
import pytest

from gm_jax.data import official, sources
from tests.data.support import idx, random_images


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No network, an empty cache and no TFDS folder; returns the list of addresses that were tried."""
    tried = []

    def refuse(url, timeout):
        tried.append(url)
        raise urllib.request.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "CACHE", str(tmp_path / "cache"), raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    return tried


@pytest.fixture
def fake_mnist(monkeypatch):
    """Name -> content of four idx files with 12 and 5 images, whose md5s the module is told to expect."""
    arrays = (random_images(12, 28, 28), np.arange(12) % 10, random_images(5, 28, 28, seed=1), np.arange(5))
    contents = {name: idx(array.astype(np.uint8)) for name, array in zip(official.MNIST_CONTENTS, arrays, strict=True)}
    for name, content in contents.items():
        monkeypatch.setitem(official.MNIST_CONTENTS, name, hashlib.md5(content).hexdigest())
        monkeypatch.setitem(official.MNIST_DOWNLOADS, f"{name}.gz", hashlib.md5(gzip.compress(content, mtime=0)).hexdigest())
    return contents


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(official, "CIFAR10_BATCH", 10)
