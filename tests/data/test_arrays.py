"""Arrays that would be taken for other images than they are."""

import numpy as np
import pytest

from gm_jax.data.sources import load
from tests.data.support import error_line, random_images


def arrays_file(path, x_train, x_test):
    np.savez(path, x_train=x_train, x_test=x_test)
    return f"arrays:{path}"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_first_is_refused(tmp_path, channels):
    first, last = random_images(6, channels, 8, 5), random_images(6, 8, 5, channels)
    for pair in ((first, first[:2]), (last, first[:2])):
        message = error_line(arrays_file(tmp_path / "a.npz", *pair))
        assert f"has shape [{len(pair[0]) if pair[0] is first else 2}, {channels}, 8, 5]" in message
        assert "x.transpose(0, 2, 3, 1)" in message
    restored = load(arrays_file(tmp_path / "b.npz", first.transpose(0, 2, 3, 1), first.transpose(0, 2, 3, 1)[:2]))
    assert restored.image_shape == (8, 5, channels)


@pytest.mark.parametrize("shape", [(1, 1, 2), (3, 3, 3), (4, 4), (1, 4, 4), (3, 40, 1)])
def test_small_images_are_not_taken_for_channels_first(tmp_path, shape):
    x = random_images(6, *shape)
    np.testing.assert_array_equal(load(arrays_file(tmp_path / "a.npz", x, x)).x_train.reshape(x.shape), x)


def test_levels_that_never_exceed_one_are_refused(tmp_path):
    x = random_images(6, 5, 4, 3)
    for pair, name in (((x % 2, x[:2]), "x_train"), ((x, x[:2] % 2), "x_test"), ((0 * x, x[:2]), "x_train")):
        message = error_line(arrays_file(tmp_path / "a.npz", *pair))
        assert f"{name} has no level above {pair[name == 'x_test'].max()}" in message and "255 * x" in message
    assert load(arrays_file(tmp_path / "b.npz", x % 3, x[:2] % 3)).x_train.max() == 2
