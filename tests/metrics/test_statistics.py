"""Streaming moments."""

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics import statistics

FEATURES = np.random.default_rng(0).gamma(0.5, size=(101, 7)).astype(np.float32)


def streamed(features, size):
    moments = statistics.no_moments(features.shape[1])
    for start in range(0, len(features), size):
        moments = statistics.add(moments, features[start : start + size])
    return statistics.statistics(moments)


def assert_same(a, b, rtol=1e-12):
    assert a.n == b.n
    np.testing.assert_allclose(a.mean, b.mean, rtol)
    np.testing.assert_allclose(a.covariance, b.covariance, rtol, atol=rtol * np.abs(b.covariance).max())


def test_they_are_mean_and_unbiased_covariance_in_float64():
    found, wide = statistics.of(FEATURES), FEATURES.astype(np.float64)
    assert found.mean.dtype == found.covariance.dtype == np.float64
    assert_same(found, statistics.Statistics(wide.mean(0), np.cov(wide.T), 101))


@pytest.mark.parametrize("size", [1, 2, 50, 100, 101, 1000])
def test_the_batch_size_does_not_matter_and_the_last_partial_batch_counts(size):
    assert_same(streamed(FEATURES, size), statistics.of(FEATURES))
    assert_same(statistics.of(FEATURES, chunk=size), statistics.of(FEATURES))


def test_merging_is_associative_and_the_empty_set_is_neutral():
    empty = statistics.no_moments(7)
    a, b, c = (statistics.add(empty, part) for part in (FEATURES[:3], FEATURES[3:60], FEATURES[60:]))
    left = statistics.merge(statistics.merge(a, b), c)
    right = statistics.merge(a, statistics.merge(statistics.merge(b, empty), statistics.merge(empty, c)))
    assert_same(statistics.statistics(left), statistics.statistics(right))
    assert_same(statistics.statistics(left), statistics.of(FEATURES))
    assert statistics.add(a, FEATURES[:0]) is a


def test_a_large_mean_does_not_drown_the_covariance():
    """The textbook formula E xx' - E x E x' has lost all digits here."""
    far, near = streamed(FEATURES.astype(np.float64) + 2.0**26, 10), statistics.of(FEATURES)
    np.testing.assert_allclose(far.covariance, near.covariance, rtol=1e-6, atol=1e-6)


def test_features_that_are_not_finite_are_refused():
    bad = np.where(np.arange(101)[:, None] % 50 == 3, np.nan, FEATURES)
    with pytest.raises(InputError, match="2 of 101 images have features that are not finite"):
        statistics.of(bad, chunk=40)
    with pytest.raises(InputError, match="1 of 10 images"):
        statistics.add(statistics.no_moments(7), bad[:10])
    with pytest.raises(InputError, match=r"not float32 \[101, 7, 1\]"):
        statistics.of(FEATURES[..., None])


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_features_have_no_covariance(n):
    with pytest.raises(InputError, match=f"at least 2 images, not {n}"):
        statistics.of(FEATURES[:n])
