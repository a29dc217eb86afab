"""The kernel distance against brute force, and its lack of bias."""

import sys

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics.kid import estimate, kernel_distance, squared_mmd


def normal(n, dim=3, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(shift, size=(n, dim)).astype(np.float32)


def brute_force(x, y):
    def k(a, b):
        return (np.dot(a.astype(np.float64), b.astype(np.float64)) / len(a) + 1) ** 3

    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    return sum(within) - 2 * np.mean([k(a, b) for a in x for b in y])


@pytest.mark.parametrize("sizes", [(6, 6), (5, 9), (2, 2)])
def test_it_is_the_mean_over_all_pairs_of_different_images(sizes):
    x, y = normal(sizes[0]), normal(sizes[1], seed=1, shift=0.5)
    assert squared_mmd(x, y) == pytest.approx(brute_force(x, y), rel=1e-12)


def test_two_points_in_closed_form():
    """Dimension 1, all x = a and all y = b: (a^2+1)^3 + (b^2+1)^3 - 2 (ab+1)^3."""
    assert squared_mmd(np.full((4, 1), 2.0), np.full((3, 1), -1.0)) == pytest.approx(5**3 + 2**3 - 2 * (-1) ** 3, rel=1e-12)


def test_equal_distributions_have_expectation_zero_at_any_number_of_images():
    for n in (3, 10):
        values = np.array([squared_mmd(normal(n, seed=seed), normal(n, seed=10_000 + seed)) for seed in range(1500)])
        assert abs(values.mean()) < 3.5 * values.std() / np.sqrt(len(values))
        assert (values < 0).mean() > 0.3, "an unbiased estimate of 0 is often negative"


def test_the_expectation_does_not_depend_on_the_number_of_images():
    """Of N(0, 1) and N(s, 1) in one dimension, by the moments: E k = E (xy+1)^3 = E x^3 y^3 + 3 x^2 y^2 + 3 xy + 1."""
    s = 0.5
    moments = lambda mean: np.array([mean**3 + 3 * mean, mean**2 + 1, mean, 1.0])  # noqa: E731
    weights, a, b = np.array([1, 3, 3, 1]), moments(0), moments(s)
    expected = (weights * (a - b) ** 2).sum()
    for n in (2, 20):
        found = np.array([squared_mmd(normal(n, 1, seed), normal(n, 1, 10_000 + seed, s)) for seed in range(2000)])
        assert abs(found.mean() - expected) < 3.5 * found.std() / np.sqrt(len(found))


def test_subsets_are_drawn_without_replacement_and_bounded_by_the_smaller_set():
    x, y = normal(20), normal(7, seed=1)
    assert kernel_distance(x[:7], y, subsets=4) == (pytest.approx(squared_mmd(x[:7], y), rel=1e-9), None)
    assert kernel_distance(x, y, subsets=5, subset_size=6)[1] > 0


def test_there_is_no_spread_where_a_subset_is_all_of_a_set():
    x, y = normal(300), normal(20, seed=1)
    assert estimate(x[:20], y)[1:] == (None, 1, 20), "one subset, which is everything"
    found = estimate(x, y, subsets=30)
    assert found[1:] == (None, 30, 20), "the spread of y's part cannot be seen"
    assert estimate(x, normal(21, seed=1), subsets=30, subset_size=20).std > 0
    assert estimate(x, y, subsets=1, subset_size=5)[1:] == (None, 1, 5), "one value has no spread"


def test_equal_subsets_are_counted_and_computed_once(monkeypatch):
    x, y, computed = normal(3), normal(4, seed=1), []
    module = sys.modules["gm_jax.metrics.kid"]  # the package has a function of that name
    kernel = module._kernel
    monkeypatch.setattr(module, "_kernel", lambda products, dim: computed.append(1) or kernel(products, dim))
    found = estimate(x, y, subsets=2000, subset_size=2)
    assert found.subsets == 3 * 6 and len(computed) == 3 + 6 + 18
    assert found.value == pytest.approx(squared_mmd(x, y), abs=4 * found.std / np.sqrt(2000)), "unbiased"
    computed.clear()
    estimate(x, x[::-1])
    assert len(computed) == 3


def test_the_spread_is_that_between_independent_sets():
    """Of sets of 50 from unequal distributions, where the part of first order dominates."""
    apart = [squared_mmd(normal(50, seed=s), normal(50, seed=10_000 + s, shift=1)) for s in range(400)]
    found = estimate(normal(5000, seed=1), normal(5000, seed=2, shift=1), subsets=400, subset_size=50)
    assert found.std == pytest.approx(np.std(apart), rel=0.15)


def test_the_seed_decides_the_subsets():
    x, y = normal(30), normal(30, seed=1)
    first = kernel_distance(x, y, subsets=3, subset_size=10)
    assert kernel_distance(x, y, subsets=3, subset_size=10, seed=0) == first
    assert kernel_distance(x, y, subsets=3, subset_size=10, seed=1) != first


def test_it_grows_with_the_shift():
    distances = [kernel_distance(normal(200), normal(200, seed=1, shift=s), 10, 100)[0] for s in (0, 0.5, 1)]
    assert abs(distances[0]) < 0.1 < 0.5 < distances[1] < distances[2]


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="at least 2 images of either kind, not 1"):
        kernel_distance(normal(5), normal(1))
    with pytest.raises(InputError, match="3 and of 4 dimensions"):
        kernel_distance(normal(5), normal(5, dim=4))
    for name, value, least in (("subsets", 0, 1), ("subset_size", 1, 2), ("seed", -1, 0)):
        with pytest.raises(InputError, match=f"{name} is {value}; give a whole number of at least {least}"):
            kernel_distance(normal(5), normal(5), **{name: value})


@pytest.mark.parametrize("metric", [kernel_distance, squared_mmd])
def test_features_that_are_not_finite_are_refused(metric):
    x, bad = normal(9), np.where(np.arange(9)[:, None] < 2, np.inf, normal(9))
    for pair in ((x, bad), (bad, x)):
        with pytest.raises(InputError, match="2 of 9 images have features that are not finite"):
            metric(*pair)
