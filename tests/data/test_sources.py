"""Every source, from tiny fakes of each format: exact pixels, an order that is the same everywhere, and one line per error."""

import gzip
import hashlib
import io
import os
import pickle
import struct
import sys
import tarfile
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gm_jax.data import download, official, sources, tfds
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


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """No network, an empty cache and no TFDS folder; returns the list of addresses that were tried."""
    tried = []

    def refuse(url, timeout):
        tried.append(url)
        raise urllib.request.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(sources, "CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "no_tfds"))
    return tried


# --- names and options


def test_unknown_names_and_misplaced_options():
    assert "did you mean cifar10" in error_line("cifar-10")
    assert "folder:/path" in error_line("nothing_like_it")
    assert "lacks a path" in error_line("folder:")
    assert "only folder does" in error_line("digits", resize=16)
    assert "only cifar10 or mnist does" in error_line("folder:/somewhere", dir="/elsewhere")
    assert "takes no path" in error_line("digits:/somewhere")
    assert "data.resize is -1" in error_line("folder:/somewhere", resize=-1)


# --- digits


def test_digits_scale_is_invertible_and_split_is_stratified():
    from sklearn.datasets import load_digits

    digits, raw = load("digits"), load_digits()
    assert_well_formed(digits)
    assert digits.image_shape == (8, 8, 1) and digits.num_classes == 10
    assert (len(digits.x_train), len(digits.x_test)) == (1501, 296)
    restored = np.rint(np.concatenate([digits.x_train, digits.x_test])[..., 0] * (16 / 255))
    assert sorted(map(bytes, restored.astype(np.uint8))) == sorted(map(bytes, raw.images.astype(np.uint8)))
    assert digits.x_train.max() == 255 and digits.x_train.min() == 0
    np.testing.assert_allclose(np.bincount(digits.y_test) / np.bincount(raw.target), 1 / 6, atol=0.006)


# --- arrays


def arrays_file(path, **changes):
    arrays = {
        "x_train": random_images(6, 5, 4, 3),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": random_images(2, 5, 4, 3, seed=1),
        "y_test": np.array([2, 0]),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return f"arrays:{path}"


def test_arrays_round_trip(tmp_path):
    dataset = load(arrays_file(tmp_path / "mine.npz"))
    assert_well_formed(dataset)
    assert (dataset.name, dataset.image_shape, dataset.class_names) == ("mine", (5, 4, 3), ("0", "1", "2"))
    np.testing.assert_array_equal(dataset.x_train, random_images(6, 5, 4, 3))
    np.testing.assert_array_equal(dataset.y_test, [2, 0])


def test_arrays_without_labels_or_channel_axis_and_in_fortran_order(tmp_path):
    x = np.asfortranarray(random_images(6, 5, 4))
    dataset = load(arrays_file(tmp_path / "a.npz", x_train=x, x_test=x[:2], y_train=None, y_test=None))
    assert_well_formed(dataset)
    assert dataset.image_shape == (5, 4, 1) and dataset.num_classes is None and dataset.y_test is None
    np.testing.assert_array_equal(dataset.x_train[..., 0], x)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_test": None}, "lacks x_test"),
        ({"x_train": np.zeros((6, 5, 4, 3), np.float32)}, "x_train is float32, not uint8"),
        ({"x_train": np.zeros((6, 5, 4, 3), int)}, "x.astype(np.uint8)"),
        ({"x_train": np.zeros((6, 5), np.uint8)}, "has shape (6, 5)"),
        ({"x_test": np.zeros((0, 5, 4, 3), np.uint8)}, "not empty"),
        ({"x_test": random_images(2, 5, 5, 3)}, "make them equal"),
        ({"y_test": None}, "labels for one split only"),
        ({"y_train": np.zeros(6)}, "must be integers"),
        ({"y_train": np.zeros((6, 1), int)}, "has shape (6, 1)"),
        ({"y_train": np.array([1, 2, 3, 1, 2, 3])}, "lie in 1..3"),
        ({"y_train": np.array([0, 1, 3, 0, 1, 3])}, "without gaps"),
        ({"y_test": np.array([3, 0])}, "y_test has labels 0..3, but y_train only 0..2"),
        ({"y_test": np.array([-1, 0])}, "y_test has labels -1..0"),
        ({"x_train": np.array([{}], dtype=object)}, "cannot read"),
    ],
)
def test_arrays_errors(tmp_path, changes, message):
    assert message in error_line(arrays_file(tmp_path / "a.npz", **changes))


def test_arrays_unreadable_files(tmp_path):
    assert "no file" in error_line(f"arrays:{tmp_path}/none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    assert "cannot read" in error_line(f"arrays:{tmp_path}/text.npz")
    np.save(tmp_path / "single.npy", random_images(2, 4, 4))
    assert "cannot read" in error_line(f"arrays:{tmp_path}/single.npy")
    whole = arrays_file(tmp_path / "whole.npz").removeprefix("arrays:")
    (tmp_path / "cut.npz").write_bytes(Path(whole).read_bytes()[:400])
    assert "cannot read" in error_line(f"arrays:{tmp_path}/cut.npz")


# --- folder


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def test_folder_with_splits_is_exact_and_sorted_by_name(tmp_path):
    x = random_images(6, 5, 4, 3)
    for i, name in enumerate(["train/dog/b", "train/cat/z", "train/cat/a", "train/dog/deep/a", "test/dog/y", "test/cat/x"]):
        save(tmp_path / f"{name}.png", x[i])
    save(tmp_path / "train/.hidden/a.png", x[0])
    save(tmp_path / "train/cat/.hidden.png", x[0])
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    dataset = load(f"folder:{tmp_path}")
    assert_well_formed(dataset)
    assert dataset.class_names == ("cat", "dog")
    np.testing.assert_array_equal(dataset.x_train, x[[2, 1, 0, 3]])
    np.testing.assert_array_equal(dataset.y_train, [0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.x_test, x[[5, 4]])
    np.testing.assert_array_equal(dataset.y_test, [0, 1])


def test_flat_folder_is_unlabelled_and_its_split_depends_on_names_alone(tmp_path):
    values = {}
    for root, order in (("one", range(45)), ("two", reversed(range(45)))):
        for i in order:
            save(tmp_path / root / f"{i}.png", np.full((2, 2), i, np.uint8))
        dataset = load(f"folder:{tmp_path / root}")
        assert dataset.class_names is None and dataset.image_shape == (2, 2, 1)
        values[root] = dataset.x_train[:, 0, 0, 0].tolist(), dataset.x_test[:, 0, 0, 0].tolist()
    train, test = values["one"]
    assert values["two"] == (train, test)
    assert len(test) == 4 and sorted(train + test) == list(range(45))
    assert train == sorted(train, key=str)
    by_md5 = sorted(range(45), key=lambda i: hashlib.md5(f"{i}.png".encode()).hexdigest())
    assert sorted(test) == sorted(by_md5[:4])


def test_symlinked_class_folders_are_followed(tmp_path):
    for i in range(4):
        save(tmp_path / "pool" / f"{i}.png", random_images(1, 2, 2, seed=i)[0])
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "pool")
    assert load(f"folder:{tmp_path / 'data'}").class_names == ("cat",)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (2, 2), 7), [7]),
        (Image.new("RGB", (2, 2), (1, 2, 3)), [1, 2, 3]),
        (Image.new("RGBA", (2, 2), (1, 2, 3, 4)), [1, 2, 3, 4]),
        (Image.new("LA", (2, 2), (9, 5)), [9, 9, 9, 5]),
        (Image.new("1", (2, 2), 1), [255]),
        (Image.new("RGB", (2, 2), (10, 20, 30)).quantize(2), [10, 20, 30]),
        (Image.fromarray(np.full((2, 2), 0x12FF, np.uint16)), [0x12]),
    ],
    ids=["grey", "rgb", "rgba", "grey-alpha", "bilevel", "palette", "16-bit"],
)
def test_pixel_formats(tmp_path, image, expected):
    for name in ("a.png", "b.png"):
        image.save(tmp_path / name)
    dataset = load(f"folder:{tmp_path}")
    assert_well_formed(dataset)
    np.testing.assert_array_equal(dataset.x_train[0, 1, 1], expected)


def test_resize_crops_the_centre_averages_and_mixes_channel_counts(tmp_path):
    wide = np.zeros((8, 12, 3), np.uint8)
    wide[:, 2:10] = np.repeat([[100], [180]], 4, 0)[..., None]  # left and right of the central square: black
    save(tmp_path / "wide.png", wide)
    save(tmp_path / "grey.png", np.full((6, 4), 50, np.uint8))
    save(tmp_path / "clear.png", np.full((4, 4, 4), (10, 20, 30, 40), np.uint8))
    dataset = load(f"folder:{tmp_path}", resize=4)
    assert dataset.image_shape == (4, 4, 4)
    images = {bytes(image[0, 0]): image for image in np.concatenate([dataset.x_train, dataset.x_test])}
    assert (images.pop(bytes([50, 50, 50, 255])) == [50, 50, 50, 255]).all()
    assert (images.pop(bytes([10, 20, 30, 40])) == [10, 20, 30, 40]).all()
    (shrunk,) = images.values()
    assert (shrunk == shrunk[:, :1]).all(), "columns differ: the black margins were not cropped"
    assert shrunk[0, 0, 0] <= 102 and shrunk[-1, 0, 0] >= 178 and shrunk[..., :3].mean() == pytest.approx(140, abs=1)


def test_resize_to_the_same_size_changes_nothing(tmp_path):
    x = random_images(4, 6, 6, 3)
    for i in range(4):
        save(tmp_path / f"{i}.png", x[i])
    plain, resized = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", resize=6)
    np.testing.assert_array_equal(plain.x_train, resized.x_train)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated: show it turned 90 degrees clockwise
    for name in ("a.png", "b.png"):
        save(tmp_path / name, np.array([[1, 2, 3], [4, 5, 6]], np.uint8), exif=exif)
    np.testing.assert_array_equal(load(f"folder:{tmp_path}").x_train[0, ..., 0], [[4, 1], [5, 2], [6, 3]])


def test_folder_errors(tmp_path):
    def folder(name, **images):
        for path, pixels in images.items():
            save(tmp_path / name / f"{path.replace('__', '/')}.png", pixels)
        return f"folder:{tmp_path / name}"

    small, large, colour = np.zeros((2, 2), np.uint8), np.zeros((3, 5), np.uint8), np.zeros((2, 2, 3), np.uint8)
    assert "no folder" in error_line(f"folder:{tmp_path}/none")
    (tmp_path / "empty").mkdir()
    assert "no images" in error_line(f"folder:{tmp_path}/empty")
    assert "single image" in error_line(folder("single", a=small))
    sizes = error_line(folder("sizes", a=small, b=small, c=large))
    assert "c.png is 5x3 L" in sizes or "is 5x3 L but" in sizes
    assert sum(f"{name}.png" in sizes for name in "abc") == 2 and "data.resize" in sizes
    modes = error_line(folder("modes", a=small, b=colour))
    assert "a.png" in modes and "b.png" in modes and "2x2 RGB" in modes
    assert "train/ only" in error_line(folder("half", train__a=small, train__b=small))
    mixed = error_line(folder("mixed", a=small, cat__b=small, cat__c=small))
    assert "a.png is in none" in mixed and "is in a class folder" in mixed
    assert "class dog" in error_line(folder("strange", train__cat__a=small, train__cat__b=small, test__dog__c=small))
    damaged = folder("damaged", a=small, b=large)
    (tmp_path / "damaged" / "b.png").write_bytes((tmp_path / "damaged" / "b.png").read_bytes()[:40])
    assert "cannot decode" in error_line(damaged) and "b.png" in error_line(damaged)
    for name in "ab":
        Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / f"float{name}.tiff")
    os.renames(tmp_path / "floata.tiff", tmp_path / "float" / "a.tiff")
    os.renames(tmp_path / "floatb.tiff", tmp_path / "float" / "b.tiff")
    assert "32-bit" in error_line(f"folder:{tmp_path / 'float'}")


# --- MNIST


def idx(array):
    return struct.pack(f">BBBB{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fake_mnist(monkeypatch):
    """Name -> content of four idx files with 12 and 5 images, whose md5s the module is told to expect."""
    arrays = (random_images(12, 28, 28), np.arange(12) % 10, random_images(5, 28, 28, seed=1), np.arange(5))
    contents = {name: idx(array.astype(np.uint8)) for name, array in zip(official.MNIST_CONTENTS, arrays, strict=True)}
    for name, content in contents.items():
        monkeypatch.setitem(official.MNIST_CONTENTS, name, hashlib.md5(content).hexdigest())
        monkeypatch.setitem(official.MNIST_DOWNLOADS, f"{name}.gz", hashlib.md5(gzip.compress(content, mtime=0)).hexdigest())
    return contents


def assert_is_fake_mnist(dataset):
    assert_well_formed(dataset)
    assert dataset.image_shape == (28, 28, 1) and dataset.class_names == tuple("0123456789")
    np.testing.assert_array_equal(dataset.x_train[..., 0], random_images(12, 28, 28))
    np.testing.assert_array_equal(dataset.x_test[..., 0], random_images(5, 28, 28, seed=1))
    np.testing.assert_array_equal(dataset.y_train, np.arange(12) % 10)


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


def test_download_that_is_wrong_everywhere_leaves_nothing(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(b"<html>sorry</html>"))
    assert "served 18 bytes" in error_line("cifar10", dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


# --- CIFAR-10

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


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(official, "CIFAR10_BATCH", 10)


def assert_is_fake_cifar(dataset):
    assert_well_formed(dataset)
    assert dataset.image_shape == (32, 32, 3) and dataset.class_names[3] == "cat"
    np.testing.assert_array_equal(dataset.x_train, CIFAR_IMAGES[:50])
    np.testing.assert_array_equal(dataset.x_test, CIFAR_IMAGES[50:])
    np.testing.assert_array_equal(dataset.y_train, CIFAR_LABELS[:50])
    np.testing.assert_array_equal(dataset.y_test, CIFAR_LABELS[50:])


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


# --- TFDS


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
