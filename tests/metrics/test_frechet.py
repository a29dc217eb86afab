"""The Frechet distance of two Gaussians against closed forms."""

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import sqrtm

from gm_jax.errors import InputError
from gm_jax.metrics import statistics
from gm_jax.metrics.frechet import distance_of_samples, frechet_distance
from gm_jax.metrics.statistics import Statistics

RNG = np.random.default_rng(0)
ROTATION = np.linalg.qr(RNG.standard_normal((12, 12)))[0]


def gaussian(mean, variances, n=None):
    """With these variances along common, rotated axes."""
    return Statistics(ROTATION @ np.asarray(mean, float), ROTATION @ np.diag(variances) @ ROTATION.T, n)


def of_random(n, dim=12, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim)) + rng.standard_normal(dim)).astype(np.float32)


def test_along_common_axes_it_is_the_distance_of_means_and_of_standard_deviations():
    m, s, other_m, other_s = RNG.uniform(0, 3, (4, 12))
    expected = ((m - other_m) ** 2 + (s - other_s) ** 2).sum()
    assert frechet_distance(gaussian(m, s**2), gaussian(other_m, other_s**2)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("ranks", [(3, 12), (12, 3), (5, 8), (1, 1)])
def test_singular_covariances_follow_the_same_formula(ranks):
    s, other_s = (np.where(np.arange(12) < rank, RNG.uniform(1, 3, 12), 0) for rank in ranks)
    a, b = gaussian(np.zeros(12), s**2, ranks[0] + 1), gaussian(np.zeros(12), other_s**2, ranks[1] + 1)
    expected = ((s - other_s) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_without_common_axes_it_agrees_with_the_matrix_square_root():
    a, b = statistics.of(of_random(50, seed=1)), statistics.of(of_random(80, seed=2))
    shift = a.mean - b.mean
    product = sqrtm(a.covariance @ b.covariance).real
    expected = shift @ shift + np.trace(a.covariance + b.covariance - 2 * product)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [5, 40])
def test_to_itself_it_is_zero_and_it_is_symmetric_and_not_negative(n):
    a, b = statistics.of(of_random(n)), statistics.of(of_random(30, seed=3))
    assert 0 <= frechet_distance(a, a) < 1e-6 * np.trace(a.covariance)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, b) > 0


def test_translation_and_rotation_of_both_change_nothing_and_scaling_squares():
    x, y = of_random(40, seed=1).astype(np.float64), of_random(60, seed=2).astype(np.float64)
    distance = frechet_distance(statistics.of(x), statistics.of(y))
    moved = (3 * z @ ROTATION + 100 for z in (x, y))
    assert frechet_distance(*map(statistics.of, moved)) == pytest.approx(9 * distance, rel=1e-9)


@pytest.mark.parametrize("n", [2, 7, 12, 13, 100])
def test_from_samples_it_is_the_same_whichever_way_is_faster(n):
    x, reference = of_random(n, seed=4), statistics.of(of_random(50, seed=5))
    assert distance_of_samples(x, reference) == pytest.approx(frechet_distance(statistics.of(x), reference), rel=1e-8)


def test_more_samples_of_the_same_distribution_are_nearer():
    """The bias that makes n a part of the metric's name."""
    reference = statistics.of(RNG.standard_normal((2000, 12)))
    distances = [distance_of_samples(RNG.standard_normal((n, 12)), reference) for n in (8, 40, 200, 1000)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 0.1 < 1 < distances[0]


def test_other_dimensions_are_refused():
    reference = statistics.of(of_random(20))
    with pytest.raises(InputError, match="5 and of 12 dimensions"):
        distance_of_samples(of_random(20, dim=5), reference)
    with pytest.raises(InputError, match="12 and of 5 dimensions"):
        frechet_distance(reference, statistics.of(of_random(20, dim=5)))


@pytest.mark.parametrize("n", [5, 40])
def test_numbers_that_are_not_finite_are_refused(n):
    x, reference = of_random(n), statistics.of(of_random(20))
    for bad in (np.nan, np.inf, 1e39):
        x = x.astype(np.float64)
        x[3, 2] = bad
        with pytest.raises(InputError, match=f"1 of {n} images have features that are not finite"):
            distance_of_samples(x, reference)
    broken = reference._replace(covariance=reference.covariance * np.nan)
    for pair in ((broken, reference), (reference, broken)):
        with pytest.raises(InputError, match="statistics hold NaN or infinite values"):
            frechet_distance(*pair)
    with pytest.raises(InputError, match="statistics hold NaN"):
        distance_of_samples(of_random(n), broken)


def test_cifar10_test_against_train_on_768_features():
    path = Path(os.environ.get("GM_JAX_TEST_DATA", ""), "inception/cifar10_stats.npz")
    if not os.environ.get("GM_JAX_TEST_DATA") or not path.is_file():
        pytest.skip("GM_JAX_TEST_DATA names no folder with inception/cifar10_stats.npz")
    with np.load(path) as stats:
        train, test = (Statistics(stats[f"mu_{s}"], stats[f"sigma_{s}"], n) for s, n in (("train", 50_000), ("test", 10_000)))
    assert frechet_distance(test, train) == pytest.approx(0.0092092, abs=5e-8)
    assert frechet_distance(train, train) < 1e-6
