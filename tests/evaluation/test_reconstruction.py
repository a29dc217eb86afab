import numpy as np
import pytest

from gm_jax import images
from gm_jax.evaluation.reconstruction import psnr, reconstructions
from gm_jax.metrics.ssim import ssim
from tests.evaluation.tiles import tiles_of


def rebuilt(x):
    """What the toy model makes of test images: the second half of the pixels becomes 0.1."""
    x_hat = images.to_float(x).reshape(len(x), 16).copy()
    x_hat[:, 8:] = 0.1
    return x_hat.reshape(x.shape)


def test_errors_are_those_of_numpy_over_the_whole_split(context):
    entries = reconstructions(context._replace(n=3))
    x = context.dataset.x_test
    squared = ((rebuilt(x).astype(np.float64) - images.to_float(x)) ** 2).sum((1, 2, 3))
    similarity = np.asarray(ssim(images.to_uint8(rebuilt(x)), x), np.float64)
    expected = {
        "reconstruction_mse": squared / 16,
        "reconstruction_squared_error": squared,
        "reconstruction_ssim": similarity,
    }
    for name, values in expected.items():
        assert entries[name]["value"] == pytest.approx(values.mean(), rel=1e-5)
        assert entries[name]["stderr"] == pytest.approx(values.std(ddof=1) / np.sqrt(11), rel=1e-5)
        assert entries[name]["n"] == 11 and entries[name]["split"] == "test"
    byte_mse = np.mean((images.to_uint8(rebuilt(x)).astype(float) - x) ** 2)
    assert entries["reconstruction_psnr"]["value"] == pytest.approx(10 * np.log10(255**2 / byte_mse), rel=1e-5)
    assert entries["reconstruction_ssim"]["window"] == 3  # of images of 4x4
    assert 0.1 < similarity.mean() < 0.9


def test_errors_do_not_depend_on_batch_size(context):
    one, other = (reconstructions(context._replace(n=2, batch_size=size)) for size in (3, 64))
    for name in ("reconstruction_mse", "reconstruction_psnr", "reconstruction_ssim"):
        assert one[name]["value"] == pytest.approx(other[name]["value"], rel=1e-6)


def test_picture_alternates_rows(context):
    reconstructions(context._replace(n=10))
    shown = tiles_of(context.out / "reconstructions.png", 4, 8)
    x, _ = context.real("test", 10)
    below = images.to_uint8(rebuilt(x))[..., 0]
    np.testing.assert_array_equal(shown[0], x[:8, ..., 0])
    np.testing.assert_array_equal(shown[1], below[:8])
    np.testing.assert_array_equal(shown[2, :2], x[8:, ..., 0])
    np.testing.assert_array_equal(shown[3, :2], below[8:])
    assert (shown[2:, 2:] == 255).all()


def test_perfect_reconstruction_has_infinite_psnr():
    assert psnr(0.0) == np.inf
    assert psnr(255.0**2) == 0
