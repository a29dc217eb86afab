"""Folders of images as data sets."""

import hashlib
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, features

from gm_jax.data.sources import load
from gm_jax.system import image_files
from tests.data.support import (
    assert_well_formed,
    error_line,
    random_images,
)


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


def test_every_real_folder_counts_once(tmp_path):
    x = random_images(8, 2, 2)
    data = tmp_path / "data"
    for i, name in enumerate(["z/0", "z/1", "z/deep/2", "b/3", "b/4", "b/5"]):
        save(data / f"{name}.png", x[i])
    for i in (6, 7):
        save(tmp_path / "pool" / "inner" / f"{i}.png", x[i])
    links = {"z/up": data, "z/deep/here": data / "z/deep", "b/again": data / "z", "a": data / "z", "pool": tmp_path / "pool"}
    links |= {"b/inner": tmp_path / "pool" / "inner"}
    for name, target in links.items():
        (data / name).symlink_to(target)
    dataset = load(f"folder:{data}")
    found = [bytes(image) for image in np.concatenate([dataset.x_train, dataset.x_test])]
    assert sorted(found) == sorted(map(bytes, x)), "each image once"
    assert dataset.class_names == ("b", "pool", "z"), "by the folder's own name, or that of the first link to it"
    (tmp_path / "alias").symlink_to(data)
    np.testing.assert_array_equal(load(f"folder:{tmp_path / 'alias'}").x_train, dataset.x_train)


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    for i in range(4):
        save(tmp_path / "cat" / f"{i}.png", random_images(1, 2, 2, seed=i)[0])
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("cat"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"cannot read {tmp_path / 'cat'} (Permission denied)" in error_line(f"folder:{tmp_path}")


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


def png(width, bits, colour_type, row, transparent):
    """A PNG of one row, with the colour that stands for transparency."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, 1, bits, colour_type, 0, 0, 0)
    parts = (b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(bits, width, row):
    """A grey TIFF of one row."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: len(row)}
    row += b"\0" * (len(row) % 2)
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(row)) + row + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize(
    ("suffix", "content", "expected"),
    [
        (".png", png(2, 8, 0, bytes([7, 9]), struct.pack(">H", 9)), [[7, 7, 7, 255], [9, 9, 9, 0]]),
        (".png", png(2, 2, 0, bytes([0b01110000]), struct.pack(">H", 3)), [[85, 85, 85, 255], [255, 255, 255, 0]]),
        (".png", png(2, 4, 0, bytes([0x3F]), struct.pack(">H", 15)), [[51, 51, 51, 255], [255, 255, 255, 0]]),
        (".png", png(2, 1, 0, bytes([0b10000000]), struct.pack(">H", 1)), [[255, 255, 255, 0], [0, 0, 0, 255]]),
        (".png", png(2, 8, 2, bytes([1, 2, 3, 4, 5, 6]), struct.pack(">3H", 4, 5, 6)), [[1, 2, 3, 255], [4, 5, 6, 0]]),
        (
            ".png",
            png(2, 16, 0, struct.pack(">2H", 0x1234, 0x1256), struct.pack(">H", 0x1256)),
            [[0x12, 0x12, 0x12, 255], [0x12, 0x12, 0x12, 0]],
        ),
        (
            ".png",
            png(2, 16, 2, struct.pack(">6H", 0x101, 0x202, 0x303, 0x401, 0x52, 0x6FF), struct.pack(">3H", 0x401, 0x52, 0x6FF)),
            [[1, 2, 3, 255], [4, 0, 6, 0]],
        ),
        (".tiff", tiff(12, 2, bytes([0xAB, 0xCD, 0xEF])), [[0xAB], [0xDE]]),
        (".tiff", tiff(16, 2, struct.pack("<2H", 0xABCD, 0x12FF)), [[0xAB], [0x12]]),
        (".pgm", b"P5 2 1 65535\n" + struct.pack(">2H", 0x12FF, 0xFF00), [[0x12], [0xFF]]),
        (".pgm", b"P2 2 1 1023\n512 1023\n", [[128], [255]]),
        (".ppm", b"P6 2 1 255\n" + bytes(range(6)), [[0, 1, 2], [3, 4, 5]]),
    ],
    ids=["grey", "2-bit", "4-bit", "1-bit", "rgb", "16-bit", "16-bit-rgb", "tiff12", "tiff16", "pgm16", "pgm10", "ppm"],
)
def test_rarer_formats(tmp_path, suffix, content, expected):
    for name in "ab":
        (tmp_path / name).with_suffix(suffix).write_bytes(content)
    np.testing.assert_array_equal(load(f"folder:{tmp_path}").x_train[0, 0], expected)


def test_16_bit_greys_keep_the_same_upper_bits_in_every_format(tmp_path):
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    for i, suffix in enumerate((".png", ".pgm", ".tiff")):
        Image.fromarray(levels).save((tmp_path / str(i)).with_suffix(suffix))
    dataset = load(f"folder:{tmp_path}")
    for image in (*dataset.x_train, *dataset.x_test):
        np.testing.assert_array_equal(image.reshape(-1), np.arange(0, 256, 4))


def test_endings_that_are_read(tmp_path):
    image = Image.fromarray(np.full((16, 16, 3), 90, np.uint8))
    for suffix in (".jfif", ".jpe", ".JPG"):
        image.save((tmp_path / "a").with_suffix(suffix), "JPEG")
    if features.check("avif"):
        image.save(tmp_path / "a.avif", "AVIF")
    x = load(f"folder:{tmp_path}")
    assert len(x.x_train) + len(x.x_test) == 3 + features.check("avif")
    assert abs(x.x_train.astype(int) - 90).max() <= 3


def test_images_of_kinds_that_are_not_read_are_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image_files, "EXTENSIONS", image_files.EXTENSIONS - {".avif"})
    monkeypatch.setattr(image_files, "OTHERS", image_files.OTHERS | {".avif"})
    for name in ("a.avif", "b.HEIC", "c.heic", "notes.txt", ".hidden.heic"):
        (tmp_path / name).touch()
    message = error_line(f"folder:{tmp_path}")
    assert "no images in" in message and "but 3 files of kinds that are not read (.avif, .heic)" in message
    for i in range(2):
        save(tmp_path / f"{i}.png", random_images(1, 2, 2, seed=i)[0])
    load(f"folder:{tmp_path}")
    assert capsys.readouterr().err == f"left out: 3 files of kinds that are not read (.avif, .heic) in {tmp_path}\n"


def test_all_damaged_files_are_named_or_ten_of_them(tmp_path):
    for i in range(15):
        save(tmp_path / f"{i:02d}.png", random_images(1, 9, 9, seed=i)[0])
    for damaged in (3, 12):
        for i in range(damaged):
            (tmp_path / f"{i:02d}.png").write_bytes(b"no image")
        message = error_line(f"folder:{tmp_path}")
        assert f"cannot decode {damaged} of 15 files: " in message and "repair or remove them" in message
        assert sum(f"{i:02d}.png (" in message for i in range(15)) == min(damaged, 10)
        assert (" and 2 more; " in message) == (damaged == 12)


def test_levels_that_never_exceed_one_are_refused(tmp_path):
    for i in range(3):
        save(tmp_path / f"{i}.png", random_images(1, 4, 4, seed=i)[0] % 2)
    assert "no level above 1" in error_line(f"folder:{tmp_path}") and "255 * x" in error_line(f"folder:{tmp_path}")


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
    assert "(2 of 4 differ from the first)" in error_line(folder("many", a=small, b=large, c=large, d=small))
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
