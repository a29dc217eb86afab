"""Images from arrays, folders and .npz files."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gm_jax.errors import InputError
from gm_jax.metrics.inputs import read_images

X = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)


def error_line(source):
    with pytest.raises(InputError) as error:
        read_images(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_arrays_are_taken_as_they_are():
    for x in (X, jnp.asarray(X)):
        images, labels = read_images(x)
        np.testing.assert_array_equal(images, X)
        assert isinstance(images, np.ndarray) and labels is None
    assert read_images(X[..., 0])[0].shape == (5, 4, 6, 1)


def test_folders_are_read_to_any_depth_in_the_order_of_names(tmp_path):
    for i, name in enumerate(["b/10.png", "b/2.png", "a.png", "c/deep/x.png", ".hidden/y.png"]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(X[i]).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    for folder in (tmp_path, str(tmp_path)):
        images, labels = read_images(folder)
        np.testing.assert_array_equal(images, X[[2, 0, 1, 3]])
        assert labels is None


def test_npz_files_may_have_labels(tmp_path):
    np.savez(tmp_path / "plain.npz", images=X)
    np.savez(tmp_path / "labelled.npz", images=X, labels=np.arange(5), other=np.zeros(3))
    np.testing.assert_array_equal(read_images(tmp_path / "plain.npz")[0], X)
    assert read_images(tmp_path / "plain.npz")[1] is None
    np.testing.assert_array_equal(read_images(str(tmp_path / "labelled.npz"))[1], np.arange(5))


def test_arrays_that_would_be_misread_are_refused(tmp_path):
    first = np.ascontiguousarray(np.concatenate([X] * 2).transpose(0, 3, 1, 2))
    assert "looks like [n, channels, height, width]" in error_line(first) and "x.transpose(0, 2, 3, 1)" in error_line(first)
    np.savez(tmp_path / "first.npz", images=first)
    assert "channels come last" in error_line(tmp_path / "first.npz")
    assert "no level above 1" in error_line(X % 2)
    assert read_images(0 * X)[0].max() == 0, "all black samples have their value, if a bad one"


def test_what_is_wrong_is_said_in_one_line(tmp_path):
    assert "no folder or file" in error_line(tmp_path / "none")
    assert "no images in" in error_line(tmp_path)
    assert "float32, not uint8" in error_line(X.astype(np.float32)) and "to_uint8" in error_line(X / 255)
    assert "[4, 6]" in error_line(X[0, ..., 0]) and "[0, 4, 6, 3]" in error_line(X[:0])
    (tmp_path / "text.npz").write_text("no archive")
    assert "cannot read" in error_line(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=X)
    assert "no array named images" in error_line(tmp_path / "other.npz")
    for labels in (np.arange(4), np.zeros(5), np.zeros((5, 1), int)):
        np.savez(tmp_path / "labels.npz", images=X, labels=labels)
        assert "one integer for each" in error_line(tmp_path / "labels.npz")
    folder = tmp_path / "unlike"
    folder.mkdir()
    Image.fromarray(X[0]).save(folder / "a.png")
    Image.fromarray(X[0, ..., 0]).save(folder / "b.png")
    assert "a.png is 6x4 RGB but" in error_line(folder) and "make them alike" in error_line(folder)
