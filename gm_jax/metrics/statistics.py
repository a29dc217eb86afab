"""Mean and covariance of features, in float64, gathered batch by batch."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from gm_jax.errors import InputError
from gm_jax.metrics.checks import at_least, table


class Statistics(NamedTuple):
    """What the Frechet distance needs to know of a set of features."""

    mean: Float64[np.ndarray, " dim"]
    covariance: Float64[np.ndarray, "dim dim"]  # unbiased: divided by n - 1
    n: int | None  # None: not known


class Moments(NamedTuple):
    """Statistics under way: count, mean, and the sum of outer products of the deviations from that mean."""

    n: int
    mean: Float64[np.ndarray, " dim"]
    scatter: Float64[np.ndarray, "dim dim"]


def no_moments(dim: int) -> Moments:
    """Those of the empty set."""
    return Moments(0, np.zeros(dim), np.zeros((dim, dim)))


def add(moments: Moments, features: Float[np.ndarray, "n dim"]) -> Moments:
    """Those of all features so far and of these. Raises InputError where these are not finite."""
    return _add(moments, table(features))


def _add(moments: Moments, features: np.ndarray) -> Moments:
    features = np.asarray(features, np.float64)
    if not len(features):
        return moments
    mean = features.mean(0)
    deviations = features - mean
    return merge(moments, Moments(len(features), mean, deviations.T @ deviations))


def merge(a: Moments, b: Moments) -> Moments:
    """Those of the union of two disjoint sets (Chan, Golub and LeVeque 1979, eq. 2.1): no squares of raw values cancel."""
    n = a.n + b.n
    if not a.n or not b.n:
        return a if a.n else b
    shift = b.mean - a.mean
    return Moments(n, a.mean + shift * (b.n / n), a.scatter + b.scatter + np.outer(shift, shift) * (a.n * b.n / n))


def statistics(moments: Moments) -> Statistics:
    """Mean and unbiased covariance. Raises InputError for fewer than two features, which have no covariance."""
    if moments.n < 2:
        raise InputError(f"a covariance needs at least 2 images, not {moments.n}; add some")
    return Statistics(moments.mean, moments.scatter / (moments.n - 1), moments.n)


def of(features: Float[np.ndarray, "n dim"], chunk: int = 4096) -> Statistics:
    """Statistics of features that are in memory; only `chunk` of them at a time are in float64.

    Raises InputError for fewer than two, and for such as are not finite.
    """
    features = table(features)
    at_least(1, chunk=chunk)
    moments = no_moments(features.shape[1])
    for start in range(0, len(features), chunk):
        moments = _add(moments, features[start : start + chunk])
    return statistics(moments)
