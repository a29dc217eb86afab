"""The Frechet (2-Wasserstein) distance of two Gaussians, squared: Heusel et al. 2017, eq. 6.

    |mu_a - mu_b|^2 + tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2)

On the 2048 features of the 2015-12-05 Inception, and only there, it is the FID. The last trace is the sum of the square roots
of the eigenvalues of A B. The symmetric F^T B F has the same for any F with F F^T = A, and they are real and not negative.
"""

import math

import numpy as np
from jaxtyping import Float, Float64

from gm_jax.errors import InputError
from gm_jax.metrics.checks import same_dimensions, table
from gm_jax.metrics.statistics import Statistics, of


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """Squared distance, >= 0, in squared units of the features; of a set to itself 0 up to rounding.

    Covariances may be singular (fewer images than dimensions). Raises InputError for statistics of different dimensions, and
    for such as are not finite.
    """
    _check(a, b)
    fewer, more = sorted((a, b), key=lambda s: math.inf if s.n is None else s.n)
    return _distance(fewer, more, _factor(fewer.covariance))


def distance_of_samples(features: Float[np.ndarray, "n dim"], reference: Statistics) -> float:
    """`frechet_distance(of(features), reference)`, much faster for fewer samples than dimensions.

    Raises InputError for less than two samples, other dimensions than the reference has, and numbers that are not finite.
    """
    features = table(features)
    samples = of(features)
    _check(samples, reference)
    if samples.n > len(samples.mean):
        return frechet_distance(samples, reference)
    deviations = np.asarray(features, np.float64) - samples.mean
    return _distance(samples, reference, deviations.T / math.sqrt(samples.n - 1))


def _distance(a: Statistics, b: Statistics, factor: Float64[np.ndarray, "dim rank"]) -> float:
    eigenvalues = np.linalg.eigvalsh(factor.T @ b.covariance @ factor)
    overlap = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    shift = a.mean - b.mean
    return max(0.0, float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - 2 * overlap))


def _factor(covariance: np.ndarray) -> np.ndarray:
    """F with F F^T = covariance and one column per eigenvalue that is more than rounding."""
    eigenvalues, vectors = np.linalg.eigh(covariance)
    kept = eigenvalues > eigenvalues[-1] * len(eigenvalues) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(eigenvalues[kept])


def _check(a: Statistics, b: Statistics) -> None:
    same_dimensions(len(a.mean), len(b.mean))
    if not all(np.isfinite(part).all() for s in (a, b) for part in (s.mean, s.covariance)):
        raise InputError("the statistics hold NaN or infinite values and have no distance; make them of finite features")
