"""Folders of images as data sets."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from gm_jax.data.sources import load
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
