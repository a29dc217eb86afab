"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), by nearest neighbours.

Around each point of a set lies the closed ball that reaches to its k-th nearest neighbour in that set; together the balls stand
for the set's support. All values depend on the numbers of points: give both sets the same, and compare at equal numbers only.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from gm_jax.errors import InputError
from gm_jax.metrics.checks import at_least, same_dimensions, table

BLOCK = 1024  # rows of a distance matrix held at a time


def precision_recall(real: Float[np.ndarray, "n dim"], fake: Float[np.ndarray, "m dim"], k: int = 3) -> tuple[float, float]:
    """Fraction of the fakes inside the support of the real ones (fidelity), and the other way round (variety). Both in [0, 1].

    Kynkaanniemi et al. 2019, eqs. 1 and 2. Raises InputError for k below 1, sets of no more than k points or of different
    dimensions, and points that are not finite.
    """
    real, fake = _centred(real, fake, k)
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    inside_real, inside_fake = np.zeros(len(fake), bool), np.zeros(len(real), bool)
    for rows, distances in _squared_distances(real, fake):
        inside_real |= (distances <= real_radii[rows, None]).any(0)
        inside_fake[rows] = (distances <= fake_radii).any(1)
    return float(inside_real.mean()), float(inside_fake.mean())


def density_coverage(real: Float[np.ndarray, "n dim"], fake: Float[np.ndarray, "m dim"], k: int = 5) -> tuple[float, float]:
    """How many real balls a fake lies in, over k (>= 0; robust precision), and the fraction of real balls with a fake inside.

    Naeem et al. 2020, eqs. 4 and 5. Of n and n points of one distribution the expected density is 1 and the expected coverage
    nearly 1 - 2^-k. Raises InputError as `precision_recall` does.
    """
    real, fake = _centred(real, fake, k)
    radii = _squared_radii(real, k)
    hits, covered = 0, 0
    for rows, distances in _squared_distances(real, fake):
        inside = distances <= radii[rows, None]
        hits += int(inside.sum())
        covered += int(inside.any(1).sum())
    return hits / (k * len(fake)), covered / len(real)


def _centred(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64 around the mean of the real ones, which keeps what cancels in the distances small."""
    real, fake = table(real), table(fake)
    at_least(1, k=k)
    if min(len(real), len(fake)) <= k:
        raise InputError(f"the {k} nearest neighbours of {min(len(real), len(fake))} images are not defined; add some")
    same_dimensions(real.shape[1], fake.shape[1])
    real, fake = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    mean = real.mean(0)
    return real - mean, fake - mean


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of rows of the matrix of squared distances, each with the slice of `a` that it belongs to."""
    a_squared, b_squared = (a**2).sum(1), (b**2).sum(1)
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, np.maximum(a_squared[rows, None] + b_squared - 2 * a[rows] @ b.T, 0)


def _squared_radii(x: np.ndarray, k: int) -> np.ndarray:
    """Of each point the squared distance to its k-th nearest neighbour; in its own row the nearest is the point itself."""
    return np.concatenate([np.partition(distances, k, axis=1)[:, k] for _, distances in _squared_distances(x, x)])
