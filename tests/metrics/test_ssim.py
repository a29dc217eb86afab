import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.metrics.ssim import C1, C2, ssim, window_size


def noise(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def slow_ssim(x, y, size):
    """Window by window in float64, with the two-dimensional Gaussian written out."""
    axis = np.arange(size) - size // 2
    window = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for a, b in zip(np.moveaxis(x, -1, 0).astype(float), np.moveaxis(y, -1, 0).astype(float), strict=True):
        for top in range(a.shape[0] - size + 1):
            for left in range(a.shape[1] - size + 1):
                p, q = (c[top : top + size, left : left + size] for c in (a, b))
                mean_p, mean_q = (window * p).sum(), (window * q).sum()
                variances = (window * (p - mean_p) ** 2).sum() + (window * (q - mean_q) ** 2).sum()
                covariance = (window * (p - mean_p) * (q - mean_q)).sum()
                numerator = (2 * mean_p * mean_q + C1) * (2 * covariance + C2)
                values.append(numerator / ((mean_p**2 + mean_q**2 + C1) * (variances + C2)))
    return np.mean(values)


@pytest.mark.parametrize(("shape", "size"), [((14, 17, 3), 11), ((8, 8, 1), 7), ((28, 5, 1), 5), ((1, 3, 2), 1)])
def test_it_is_that_of_the_definition(shape, size):
    assert window_size(*shape[:2]) == size
    x = noise((2, *shape))
    y = np.clip(x.astype(int) + np.random.default_rng(1).normal(0, 40, x.shape), 0, 255).astype(np.uint8)
    expected = [slow_ssim(a, b, size) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y), expected, atol=2e-6)
    np.testing.assert_allclose(jax.jit(ssim)(jnp.asarray(x), jnp.asarray(y)), expected, atol=2e-6)


def test_an_image_is_wholly_similar_to_itself_and_less_to_any_other():
    x = noise((3, 12, 12, 3))
    np.testing.assert_allclose(ssim(x, x), 1, atol=1e-6)
    nearly = x ^ np.uint8(8)
    assert (ssim(x, nearly) < 1 - 1e-4).all() and (ssim(x, nearly) > ssim(x, noise(x.shape, 1))).all()
    np.testing.assert_allclose(ssim(x, nearly), ssim(nearly, x), atol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0, 255), (10, 20), (200, 200)])
def test_flat_images_are_compared_by_their_means(a, b):
    x, y = (np.full((1, 16, 16, 1), level, np.uint8) for level in (a, b))
    np.testing.assert_allclose(ssim(x, y), (2 * a * b + C1) / (a**2 + b**2 + C1), rtol=1e-4)


def test_a_negative_is_dissimilar():
    x = noise((1, 16, 16, 1))
    assert ssim(x, 255 - x)[0] < -0.8


def test_other_input_is_refused():
    x = noise((1, 12, 12, 1))
    for other in (x.astype(np.float32), x[:, :11]):
        with pytest.raises(ValueError, match="uint8 images of one shape"):
            ssim(x, other)
