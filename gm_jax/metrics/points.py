"""How well points on the plane fit a distribution whose density is known: total variation on a histogram, coverage of modes."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float64

from gm_jax.errors import InputError

BLOCK = 4096  # points whose distances to all modes are held at a time


def cell_masses(
    log_density: Callable[[Float64[np.ndarray, "n 2"]], Float64[np.ndarray, " n"]], box: float, bins: int, oversample: int = 8
) -> Float64[np.ndarray, "bins bins"]:
    """Probability of each of the bins x bins equal cells of [-box, box]^2; cell [i, j] is the i-th along x, j-th along y.

    The midpoint rule on oversample x oversample points a cell. What is lacking to a sum of 1 lies outside the square.
    `log_density` is in nats.

    Raises InputError where the masses sum to more than 1.01: the grid is too coarse for the density, or this is not one. A
    smaller excess, of the rule itself, is divided out.
    """
    n = bins * oversample
    ticks = box * ((2 * np.arange(n) + 1) / n - 1)
    points = np.stack(np.meshgrid(ticks, ticks, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(log_density(points)).reshape(bins, oversample, bins, oversample)
    masses = density.sum(axis=(1, 3)) * (2 * box / n) ** 2
    total = masses.sum()
    if not total <= 1.01:
        raise InputError(f"the cells' probabilities sum to {total:.4g}, more than 1; raise oversample, or check the density")
    return masses / max(total, 1.0)


def histogram_distance(x: Float[np.ndarray, "n 2"], masses: Float[np.ndarray, "bins bins"], box: float) -> float:
    """Total variation distance 1/2 sum |share - mass| between samples and exact probabilities on the cells of `cell_masses`.

    All outside [-box, box]^2 is one more cell. In [0, 1]; 1 where no sample lies in a cell with mass. Exact samples have
    `expected_distance(masses, n)`, not 0: compare at equal numbers of points.

    Raises InputError without points, for points that are not [n, 2] or not finite, and for masses that are not square.
    """
    x, masses = _points(x), _square(masses)
    counts, _, _ = np.histogram2d(x[:, 0], x[:, 1], bins=len(masses), range=[[-box, box], [-box, box]])
    shares = _with_outside(counts / len(x))
    return float(0.5 * np.abs(shares - _with_outside(masses)).sum())


def expected_distance(masses: Float[np.ndarray, "bins bins"], n: int) -> float:
    """The mean of `histogram_distance` over sets of n exact samples: its floor, which falls as n^(-1/2).

    The sum over the cells of half the mean absolute deviation of a binomial share. Exact, by de Moivre's formula (Diaconis and
    Zabell 1991, "Closed form summation for classical distributions"): E|K - np| = 2 k (1 - p) P(K = k) for K ~ Bin(n, p) and
    k = floor(np) + 1.

    Raises InputError for n below 1 and for masses that are not square.
    """
    if n < 1:
        raise InputError(f"the expected distance of {n} points is not defined; take at least one")
    p = _with_outside(_square(masses))
    p = p[(p > 0) & (p < 1)]  # the share of a certain or an impossible cell does not vary
    k = np.minimum(np.floor(n * p) + 1, n)  # above n only where rounding hides that p < 1
    log_factorial = np.vectorize(math.lgamma, otypes=[float])
    log_choose = math.lgamma(n + 1) - log_factorial(k + 1) - log_factorial(n - k + 1)
    probability = np.exp(log_choose + k * np.log(p) + (n - k) * np.log1p(-p))
    return float((k * (1 - p) * probability).sum() / n)


def mode_coverage(x: Float[np.ndarray, "n 2"], modes: Float[np.ndarray, "k 2"], std: float) -> tuple[int, float]:
    """(modes found, share of samples of high quality) of samples from a mixture of isotropic Gaussians.

    Srivastava et al. 2017 (VEEGAN), section 4.1: a sample is of high quality within 3 std, Euclidean, of the nearest mode; a
    mode is found if it is the nearest of at least one such sample. An exact sample is of high quality with probability
    1 - exp(-9/2) = 0.989, not 1.

    Raises InputError without points or modes, and for such that are not [n, 2] or not finite.
    """
    x, modes = _points(x), _points(modes)
    found, good = np.zeros(len(modes), bool), 0
    for start in range(0, len(x), BLOCK):
        distances = np.linalg.norm(x[start : start + BLOCK, None] - modes, axis=-1)
        near = distances.min(1) <= 3 * std
        found[distances.argmin(1)[near]] = True
        good += int(near.sum())
    return int(found.sum()), good / len(x)


def _points(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if x.ndim != 2 or x.shape[1] != 2 or not len(x):
        raise InputError(f"points on the plane are [n, 2] with n of at least 1, not {list(x.shape)}; reshape or add some")
    if bad := int((~np.isfinite(x)).any(1).sum()):
        raise InputError(f"{bad} of {len(x)} points are not finite; leave them out, or mend the model that drew them")
    return x


def _square(masses: np.ndarray) -> np.ndarray:
    masses = np.asarray(masses, np.float64)
    if masses.ndim != 2 or masses.shape[0] != masses.shape[1] or not masses.size:
        raise InputError(f"the masses of cells are [bins, bins], not {list(masses.shape)}; take those of cell_masses")
    return masses


def _with_outside(cells: np.ndarray) -> np.ndarray:
    """The cells in a row, then what they lack to a sum of 1."""
    return np.append(cells, max(0.0, 1 - cells.sum()))
