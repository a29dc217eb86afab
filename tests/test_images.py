import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gm_jax import images

LEVELS = np.arange(256, dtype=np.uint8)


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_all_levels_survive_the_round_trip(convert):
    x = images.to_float(convert(LEVELS))
    assert x.dtype == np.float32 and x.min() == -1 and x.max() == 1
    np.testing.assert_array_equal(images.to_uint8(x), LEVELS)
    assert type(images.to_uint8(x)) is type(convert(LEVELS))


def test_jitted_round_trip_is_exact():
    x = jax.jit(images.to_float)(LEVELS)
    np.testing.assert_allclose(x, LEVELS / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(jax.jit(images.to_uint8)(x), LEVELS)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_rounding_is_to_nearest_and_clips(convert):
    levels = np.array([0.49, 0.51, 127.4, 254.6, -3.0, 300.0], np.float32)
    rounded = images.to_uint8(convert(levels / np.float32(127.5) - 1))
    np.testing.assert_array_equal(rounded, [0, 1, 127, 255, 0, 255])
    # 0 is the one float that lies exactly half-way between two levels (127 and 128): to the even one
    np.testing.assert_array_equal(images.to_uint8(convert(np.zeros(1, np.float32))), [128])
    np.testing.assert_array_equal(images.to_uint8(convert(np.array([-np.inf, np.inf], np.float32))), [0, 255])


def test_rounding_of_half_precision_is_that_of_its_value():
    x = jnp.linspace(-1, 1, 301).astype(jnp.bfloat16)
    np.testing.assert_array_equal(images.to_uint8(x), images.to_uint8(np.asarray(x, np.float32)))


def test_converting_twice_is_refused():
    with pytest.raises(ValueError, match="floating-point"):
        images.to_uint8(LEVELS)
    with pytest.raises(ValueError, match="uint8"):
        images.to_float(images.to_float(LEVELS))


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_is_pixel_exact(channels):
    tiles = noise(5, 4, 6, channels)
    result = images.tiled(tiles, columns=3, padding=2, scale=3)
    assert result.shape == (2 + 2 * (12 + 2), 2 + 3 * (18 + 2), channels)
    expected = np.full_like(result, 255)
    for i, tile in enumerate(tiles):
        top, left = 2 + i // 3 * 14, 2 + i % 3 * 20
        for y in range(12):
            for x in range(18):
                expected[top + y, left + x] = tile[y // 3, x // 3]
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("n, columns", [(1, 1), (2, 2), (9, 3), (10, 4)])
def test_grid_is_nearly_square(n, columns):
    rows = -(-n // columns)
    assert images.tiled(noise(n, 3, 3, 1), padding=0).shape == (rows * 3, columns * 3, 1)


def test_grid_refuses_floats_and_nothing():
    with pytest.raises(ValueError, match="uint8"):
        images.tiled(np.zeros((2, 4, 4, 1)))
    with pytest.raises(ValueError, match="non-empty|uint8"):
        images.tiled(np.zeros((0, 4, 4, 1), np.uint8))


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB")])
def test_png_holds_every_pixel_and_makes_its_folder(tmp_path, channels, mode):
    image = noise(7, 5, channels)
    path = tmp_path / "a" / "b" / "image.png"
    images.save_png(path, image, scale=1)
    with Image.open(path) as read:
        assert read.mode == mode
        np.testing.assert_array_equal(np.asarray(read).reshape(image.shape), image)
    images.save_png(path, image)
    with Image.open(path) as read:
        factor = read.height // 7
        assert (read.height, read.width) == (7 * factor, 5 * factor) and read.height >= 512 > read.height - 7
        np.testing.assert_array_equal(
            np.asarray(read)[factor // 2 :: factor, factor // 2 :: factor].reshape(image.shape), image
        )
    assert os.listdir(path.parent) == ["image.png"]


def test_large_png_is_not_magnified(tmp_path):
    images.save_png(tmp_path / "large.png", noise(10, 600, 3))
    with Image.open(tmp_path / "large.png") as read:
        assert read.size == (600, 10)


@pytest.mark.parametrize("channels", [2, 4])
def test_pictures_of_other_channel_counts_are_refused(tmp_path, channels):
    with pytest.raises(ValueError, match="1 or 3"):
        images.save_png(tmp_path / "x.png", noise(4, 4, channels))
    with pytest.raises(ValueError, match="1 or 3"):
        images.save_gif(tmp_path / "x.gif", noise(2, 4, 4, channels))
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_has_the_frames_and_holds_the_last(tmp_path, channels):
    frames = noise(5, 8, 8, channels)
    path = tmp_path / "new" / "x.gif"
    images.save_gif(path, frames, duration_ms=40, hold_ms=700, scale=1)
    with Image.open(path) as read:
        assert read.n_frames == 5 and read.info["loop"] == 0
        durations = []
        for i in range(5):
            read.seek(i)
            durations.append(read.info["duration"])
            shown = np.asarray(read.convert("L" if channels == 1 else "RGB")).reshape(frames[i].shape)
            np.testing.assert_array_equal(shown, frames[i])  # 64 colours at most: nothing to quantise
    assert durations == [40, 40, 40, 40, 700]


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    images.write_atomically(path, b"old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        images.write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x.bin"]
