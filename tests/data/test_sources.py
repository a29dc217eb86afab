"""Every source, from tiny fakes of each format: exact pixels, an order that is the same everywhere, and one line per error."""

from pathlib import Path

import numpy as np
import pytest

from gm_jax.data.sources import load
from tests.data.support import assert_well_formed, error_line, random_images

# --- names and options


def test_unknown_names_and_misplaced_options():
    assert "did you mean cifar10" in error_line("cifar-10")
    assert "folder:/path" in error_line("nothing_like_it")
    assert "lacks a path" in error_line("folder:")
    assert "only folder does" in error_line("digits", resize=16)
    assert "only cifar10 or mnist or binary_mnist or stacked_mnist does" in error_line("folder:/somewhere", dir="/elsewhere")
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
