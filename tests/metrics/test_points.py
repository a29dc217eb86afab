"""Total variation on a histogram and coverage of modes, on distributions whose values are known."""

import math

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics import points
from gm_jax.metrics.points import cell_masses, expected_distance, histogram_distance, mode_coverage

CENTRES = np.array([(x, y) for x in (-1.0, 0, 1) for y in (-1.0, 0, 1)])
STD = 0.1


def gaussians(n, modes=CENTRES, seed=0):
    rng = np.random.default_rng(seed)
    return modes[rng.integers(len(modes), size=n)] + STD * rng.standard_normal((n, 2))


def log_density(x):
    squares = ((x[:, None] - CENTRES) ** 2).sum(-1)
    return np.log(np.exp(-squares / (2 * STD**2)).mean(1)) - np.log(2 * np.pi * STD**2)


def uniform(x):  # on [-1, 1]^2
    return np.where((np.abs(x) < 1).all(1), np.log(0.25), -np.inf)


def test_cell_masses_by_hand_and_what_lies_outside():
    assert cell_masses(uniform, box=2, bins=4).tolist() == np.pad(np.full((2, 2), 0.25), 1).tolist()
    assert cell_masses(uniform, box=0.5, bins=2).sum() == pytest.approx(0.25)  # the rest is outside
    left = cell_masses(lambda x: np.where(x[:, 0] < 0, uniform(x) + np.log(2), -np.inf), box=1, bins=2)
    np.testing.assert_allclose(left, [[0.5, 0.5], [0, 0]])  # the first index runs along x


def test_cell_masses_of_gaussians_are_products_of_error_functions():
    edges = np.linspace(-1.2, 1.2, 9)
    cdf = np.mean([[(1 + math.erf((edge - c) / STD / math.sqrt(2))) / 2 for edge in edges] for c in (-1, 0, 1)], axis=0)
    exact = np.outer(np.diff(cdf), np.diff(cdf))
    assert 0.001 < 1 - exact.sum() < 0.1, "some lies outside"
    errors = [np.abs(cell_masses(log_density, 1.2, 8, oversample) - exact).sum() for oversample in (8, 16)]
    assert errors[0] < 0.01 and errors[0] / errors[1] == pytest.approx(4, rel=0.1)  # second order


def test_the_distance_of_a_point_mass_and_of_a_shifted_uniform():
    masses = cell_masses(uniform, box=2, bins=4)
    assert histogram_distance(np.full((10, 2), 0.5), masses, box=2) == pytest.approx(0.75)
    ticks = (np.arange(100) + 0.5) / 50 - 1
    even = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2)
    assert histogram_distance(even, masses, box=2) == pytest.approx(0)
    assert histogram_distance(even + [1, 0], masses, box=2) == pytest.approx(0.5)
    assert histogram_distance(even + [2, 0], masses, box=2) == pytest.approx(1)  # half of it outside, half in empty cells
    assert histogram_distance(even, cell_masses(uniform, box=0.5, bins=2), box=0.5) == pytest.approx(0)  # 3/4 outside
    assert histogram_distance(even + 100, masses, box=2) == pytest.approx(1)


@pytest.mark.parametrize("n", [1, 10, 300, 5000])
def test_the_expected_distance_is_the_mean_over_exact_samples(n):
    masses = cell_masses(log_density, box=1.2, bins=8)
    found = [histogram_distance(gaussians(n, seed=seed), masses, 1.2) for seed in range(400)]
    assert np.mean(found) == pytest.approx(expected_distance(masses, n), rel=0.02)


def test_the_expected_distance_by_hand():
    assert expected_distance(np.array([[1.0]]), 7) == 0
    assert expected_distance(np.full((2, 2), 0.25), 1) == pytest.approx(0.75)
    assert expected_distance(np.array([[0.5, 0.5], [0, 0]]), 2) == pytest.approx(0.25)  # |K/2 - 1/2| is 1/2 in half the cases
    normal = 0.5 * 100 * np.sqrt(2 / np.pi * 0.0099 / 1e8)  # the limit of many points
    assert expected_distance(np.full((10, 10), 0.01), 10**8) == pytest.approx(normal, rel=1e-3)


def test_mode_coverage_by_hand(monkeypatch):
    modes = np.array([[0.0, 0], [10, 0], [20, 0]])
    x = np.array([[0, 2.99], [0, 3.01], [2.2, 2.2], [10, 0], [6, 0]])  # the third is 3.11 away: not a square around the mode
    assert mode_coverage(x, modes, std=1) == (2, 2 / 5)
    monkeypatch.setattr(points, "BLOCK", 2)
    assert mode_coverage(x, modes, std=1) == (2, 2 / 5)
    assert mode_coverage(x + 100, modes, std=1) == (0, 0)


def test_exact_samples_find_all_modes_and_collapse_shows_in_both_metrics():
    n, masses = 20_000, cell_masses(log_density, box=1.6, bins=16)
    found, quality = mode_coverage(gaussians(n), CENTRES, STD)
    assert found == 9 and quality == pytest.approx(1 - np.exp(-9 / 2), abs=4 * np.sqrt(0.011 / n))
    collapsed = gaussians(n, CENTRES[:6])
    assert mode_coverage(collapsed, CENTRES, STD)[0] == 6
    assert histogram_distance(gaussians(n), masses, 1.6) < 0.05
    assert histogram_distance(collapsed, masses, 1.6) == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize(
    ("x", "message"),
    [(np.zeros((0, 2)), "at least 1"), (np.zeros((4, 3)), r"\[4, 3\]"), ([[0, np.nan], [0, 0]], "1 of 2 points")],
)
def test_bad_points_are_refused(x, message):
    for metric in (lambda: histogram_distance(x, np.full((2, 2), 0.25), 1.0), lambda: mode_coverage(x, CENTRES, STD)):
        with pytest.raises(InputError, match=message):
            metric()


def test_bad_masses_and_numbers_are_refused():
    with pytest.raises(InputError, match=r"\[bins, bins\], not \[3\]"):
        histogram_distance(np.zeros((1, 2)), np.zeros(3), 1.0)
    with pytest.raises(InputError, match="at least one"):
        expected_distance(np.full((2, 2), 0.25), 0)
    with pytest.raises(InputError, match="sum to 2, more than 1"):
        cell_masses(lambda x: uniform(x) + np.log(2), box=1, bins=4)
