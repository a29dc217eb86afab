"""TensorFlow 1's bilinear resize against its definition, pixel by pixel."""

import jax
import numpy as np
import pytest

from gm_jax.metrics.resize import interpolation_matrix, resize_bilinear

resize = jax.jit(resize_bilinear, static_argnums=(1, 2))


def slow_resize(images, height, width):
    """tensorflow/core/kernels/resize_bilinear_op.cc, in loops and float64."""
    n, old_height, old_width, channels = images.shape
    images, result = images.astype(np.float64), np.empty((n, height, width, channels))
    for i in range(height):
        y = i * old_height / height
        top, bottom = int(y), min(int(y) + 1, old_height - 1)
        for j in range(width):
            x = j * old_width / width
            left, right = int(x), min(int(x) + 1, old_width - 1)
            upper = images[:, top, left] + (images[:, top, right] - images[:, top, left]) * (x - left)
            lower = images[:, bottom, left] + (images[:, bottom, right] - images[:, bottom, left]) * (x - left)
            result[:, i, j] = upper + (lower - upper) * (y - top)
    return result


@pytest.mark.parametrize("size", [(32, 32, 3), (45, 7, 3), (28, 28, 1), (120, 101, 1), (1, 2, 3)])
def test_equals_the_loops(size):
    images = np.random.default_rng(0).integers(0, 256, (2, *size), np.uint8)
    found = resize(images, 99, 99)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow_resize(images, 99, 99), atol=1e-4)  # of 255: float32 has 7 digits


def test_neither_corners_nor_centres_are_aligned():
    np.testing.assert_array_equal(interpolation_matrix(2, 4) @ [0, 8], [0, 4, 8, 8])  # aligned corners: 0, 8/3, 16/3, 8
    np.testing.assert_array_equal(interpolation_matrix(4, 2) @ [0, 1, 2, 9], [0, 2])  # aligned centres: 0.5, 5.5


def test_same_size_is_the_identity_and_rows_sum_to_one():
    np.testing.assert_array_equal(interpolation_matrix(7, 7), np.eye(7))
    for old, new in ((32, 299), (320, 299), (1, 5)):
        np.testing.assert_allclose(interpolation_matrix(old, new).sum(1), 1, rtol=1e-6)
