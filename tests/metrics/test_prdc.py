"""Precision, recall, density and coverage on known supports."""

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics import prdc
from gm_jax.metrics.prdc import density_coverage, precision_recall


def normal(n, dim=8, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal((n, dim))).astype(np.float32)


def brute_force(real, fake, k):
    def distances(a, b):
        return np.linalg.norm(a[:, None].astype(np.float64) - b[None].astype(np.float64), axis=-1)

    def radii(a):
        return np.sort(distances(a, a), axis=1)[:, k]

    within = distances(real, fake)
    in_real, in_fake = within <= radii(real)[:, None], within <= radii(fake)[None]
    return in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum(0).mean() / k, in_real.any(1).mean()


@pytest.mark.parametrize(("n", "m", "k"), [(40, 40, 3), (30, 50, 1), (50, 20, 5)])
def test_they_agree_with_brute_force(n, m, k):
    real, fake = normal(n), normal(m, seed=1, scale=0.8)
    found = (*precision_recall(real, fake, k), *density_coverage(real, fake, k))
    assert found == pytest.approx(brute_force(real, fake, k), abs=1e-12)
    assert min(found) > 0 and max(found[0], found[1], found[3]) < 1, "a case that tells nothing"


def test_points_on_a_line_by_hand():
    real = np.array([[0.0], [1], [2], [3]])  # k = 1: balls of radius 1, which cover [-1, 4]
    fake = np.array([[-1.0], [-0.5], [10], [12]])  # radii 0.5, 0.5, 2, 2: they cover [-1.5, 0] and [8, 14]
    assert precision_recall(real, fake, 1) == (2 / 4, 1 / 4)
    assert density_coverage(real, fake, 1) == (2 / 4, 1 / 4)


def test_of_a_set_and_itself_everything_is_one():
    x = normal(60)
    assert precision_recall(x, x) == (1, 1)
    assert density_coverage(x, x)[1] == 1


def test_of_disjoint_supports_everything_is_zero():
    real, fake = normal(50), normal(50, seed=1) + 100
    assert (*precision_recall(real, fake), *density_coverage(real, fake)) == (0, 0, 0, 0)


def test_one_of_two_modes_halves_recall_and_coverage_alone():
    modes = np.where(np.arange(400) < 200, -50, 50)[:, None]
    real, fake = normal(400) + modes, normal(400, seed=1) - 50
    (precision, recall), (density, coverage) = precision_recall(real, fake), density_coverage(real, fake)
    both_modes = normal(400, seed=1) + modes
    assert recall <= 0.5 < 0.8 < precision_recall(real, both_modes)[1]
    assert coverage <= 0.5 < 0.9 < density_coverage(real, both_modes)[1]
    assert precision > 0.8 and density > 0.8


def test_mode_collapse_lowers_recall_and_noise_lowers_precision():
    real, fake = normal(300), normal(300, seed=1)
    precision, recall = precision_recall(real, fake)
    _, coverage = density_coverage(real, fake)
    collapsed = normal(300, seed=1, scale=0.1)
    assert precision_recall(real, collapsed)[1] < 0.1 * recall
    assert density_coverage(real, collapsed)[1] < 0.5 * coverage
    noisy = fake + normal(300, seed=2, scale=3)
    assert precision_recall(real, noisy)[0] < 0.2 * precision
    assert density_coverage(real, noisy)[0] < 0.2


@pytest.mark.parametrize("k", [1, 3, 5])
def test_density_and_coverage_of_equal_distributions_have_known_expectations(k):
    """The order of n - 1 real and n fake points by their distance from a real one is random, in any dimension.

    So no fake is among the k nearest with probability prod (n-1-i) / (2n-1-i), nearly 2^-k, and k fakes are expected before
    the k-th real one.
    """
    n, draws = 80, 150
    found = np.array([density_coverage(normal(n, 4, seed), normal(n, 4, 1000 + seed), k) for seed in range(draws)])
    i = np.arange(k)
    expected = np.array([1, 1 - np.prod((n - 1 - i) / (2 * n - 1 - i))])
    assert (np.abs(found.mean(0) - expected) < 3.5 * found.std(0) / np.sqrt(draws)).all()
    assert expected[1] == pytest.approx(1 - 2.0**-k, abs=0.01)


def test_neither_blocks_nor_a_common_shift_change_anything(monkeypatch):
    real, fake = normal(50), normal(40, seed=1)
    found = (*precision_recall(real, fake), *density_coverage(real, fake))
    monkeypatch.setattr(prdc, "BLOCK", 7)
    assert (*precision_recall(real, fake), *density_coverage(real, fake)) == found
    shifted = (real.astype(np.float64) + 1e6, fake.astype(np.float64) + 1e6)
    assert (*precision_recall(*shifted), *density_coverage(*shifted)) == found


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_bad_input_is_refused(metric):
    with pytest.raises(InputError, match="4 nearest neighbours of 4 images"):
        metric(normal(9), normal(4), 4)
    with pytest.raises(InputError, match="8 and of 5 dimensions"):
        metric(normal(9), normal(9, dim=5))
    for k in (0, -1, 1.5):
        with pytest.raises(InputError, match=f"k is {k}; give a whole number of at least 1"):
            metric(normal(9), normal(9), k)


@pytest.mark.parametrize("metric", [precision_recall, density_coverage])
def test_points_that_are_not_finite_are_refused(metric):
    x, bad = normal(9), np.where(np.arange(9)[:, None] == 2, np.nan, normal(9))
    for pair in ((x, bad), (bad, x)):
        with pytest.raises(InputError, match="1 of 9 images have features that are not finite"):
            metric(*pair)
