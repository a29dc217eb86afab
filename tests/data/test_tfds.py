"""TFDS directories; and the real data, where GM_JAX_TEST_DATA names a folder that holds them."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gm_jax.data import tfds
from gm_jax.data.sources import load
from tests.data.support import CIFAR_IMAGES, CIFAR_LABELS, assert_is_fake_cifar, assert_well_formed, error_line, write_cifar


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS data directory with 20 and 10 images in two versions, written by TFDS itself."""
    library = pytest.importorskip("tensorflow_datasets", reason="TFDS is not installed")
    pytest.importorskip("array_record", reason="array_record is not installed")

    class Cifar10(library.core.GeneratorBasedBuilder):
        name = "cifar10"
        VERSION = library.core.Version("3.0.2")
        SUPPORTED_VERSIONS = [library.core.Version("3.0.10")]

        def _info(self):
            label = library.features.ClassLabel(names=[f"class{i}" for i in range(10)])
            features = {"image": library.features.Image(shape=(32, 32, 3)), "label": label}
            features = library.features.FeaturesDict(features)
            return library.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, _):
            start = 0 if self.version == "3.0.10" else 30  # the older version holds other images
            return {"train": self._generate_examples(start, 20), "test": self._generate_examples(start + 20, 10)}

        def _generate_examples(self, start, n):
            for i in range(start, start + n):
                file = io.BytesIO()
                Image.fromarray(CIFAR_IMAGES[i]).save(file, "PNG")
                file.seek(0)
                yield i, {"image": file, "label": int(CIFAR_LABELS[i])}

    root = tmp_path_factory.mktemp("tfds")
    for version in ("3.0.2", "3.0.10"):
        Cifar10(data_dir=str(root), version=version, file_format="array_record").download_and_prepare()
    return root


@pytest.mark.parametrize("where", ["dir", "environment"])
def test_tfds_directory_reads_the_newest_version_exactly(prepared, monkeypatch, no_network, where):
    monkeypatch.setattr(tfds, "READ_CHUNK", 7)  # does not divide the splits
    if where == "environment":
        monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    dataset = load("cifar10", dir=str(prepared) if where == "dir" else "")
    assert_well_formed(dataset)
    np.testing.assert_array_equal(dataset.x_train, CIFAR_IMAGES[:20])
    np.testing.assert_array_equal(dataset.x_test, CIFAR_IMAGES[20:30])
    np.testing.assert_array_equal(dataset.y_test, CIFAR_LABELS[20:30])
    assert dataset.class_names == tuple(f"class{i}" for i in range(10))


def test_tfds_missing_package_or_damaged_directory_is_one_line(prepared, tmp_path, monkeypatch, no_network):
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow_datasets", None)
        assert "pip install tensorflow-datasets" in error_line("cifar10", dir=str(prepared))
    version = tmp_path / "cifar10" / "3.0.2"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text('{"fileFormat": "array_record"}')
    assert f"cannot read {version}" in error_line("cifar10", dir=str(tmp_path))


def test_tfds_directories_that_need_tensorflow_are_passed_over(tmp_path, no_network, small_batches):
    version = tmp_path / "cifar10" / "3.0.2"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text('{"name": "cifar10"}')
    assert "as array_record" in error_line("cifar10", dir=str(tmp_path))
    write_cifar(tmp_path, "py3")
    assert_is_fake_cifar(load("cifar10", dir=str(tmp_path)))


# --- the real data, where GM_JAX_TEST_DATA names a folder that holds them


def real_data(name):
    root = os.environ.get("GM_JAX_TEST_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"GM_JAX_TEST_DATA names no folder with {name}/")
    return str(Path(root) / name)


def test_real_mnist():
    dataset = load("mnist", dir=real_data("mnist"))
    assert dataset.x_train.shape == (60_000, 28, 28, 1) and dataset.x_test.shape == (10_000, 28, 28, 1)
    assert dataset.x_train.mean() == pytest.approx(255 * 0.1307, abs=0.02)  # the well-known mean of MNIST
    np.testing.assert_array_equal(dataset.y_train[:5], [5, 0, 4, 1, 9])


def test_real_cifar10():
    dataset = load("cifar10", dir=real_data("tfds"))
    assert dataset.x_train.shape == (50_000, 32, 32, 3) and dataset.x_test.shape == (10_000, 32, 32, 3)
    mean = dataset.x_train.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=1e-4)  # the well-known means of CIFAR-10
    assert (np.bincount(dataset.y_train) == 5000).all() and (np.bincount(dataset.y_test) == 1000).all()
