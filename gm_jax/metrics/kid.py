"""Kernel distance: the squared maximum mean discrepancy under a cubic kernel. On Inception features, the KID.

Binkowski et al. 2018, section 4: k(x, y) = (x.y / d + 1)^3 and the unbiased estimator of Gretton et al. 2012, eq. 3.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gm_jax.errors import InputError
from gm_jax.metrics.checks import at_least, same_dimensions, table


class Estimate(NamedTuple):
    """A kernel distance as the mean over random subsets of both sets."""

    value: float
    std: float | None  # over the subsets; None where they are all of a set, whose part of the spread they cannot show
    subsets: int  # how many of them are different
    size: int  # images of either set in a subset


def estimate(
    x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "m dim"], subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Estimate:
    """The unbiased MMD^2 over random subsets, drawn without replacement from either set.

    Its expectation does not depend on the numbers of images, and is 0 for equal distributions: single values may be negative.
    A subset has `subset_size` images, or as many as the smaller set, if that has fewer. There is no `std` unless both sets are
    larger than a subset. Equal subsets are computed once. Raises InputError for less than two images, other dimensions, and
    features that are not finite.
    """
    x, y = table(x), table(y)
    at_least(1, subsets=subsets)
    at_least(2, subset_size=subset_size)
    at_least(0, seed=seed)
    same_dimensions(x.shape[1], y.shape[1])
    size = min(subset_size, len(x), len(y))
    if size < 2:
        raise InputError(f"a kernel distance needs at least 2 images of either kind, not {size}; add some")
    rng, once, drawn = np.random.default_rng(seed), _Memory(), []
    for _ in range(subsets):
        i, j = (np.sort(rng.choice(len(z), size, replace=False)) for z in (x, y))
        a, b = np.asarray(x[i], np.float64), np.asarray(y[j], np.float64)
        rows_of_x, rows_of_y = i.tobytes(), j.tobytes()
        within = once(_mean_of_pairs, a, key=("x", rows_of_x)) + once(_mean_of_pairs, b, key=("y", rows_of_y))
        drawn.append(((rows_of_x, rows_of_y), within - 2 * once(_mean_of_cross, a, b, key=(rows_of_x, rows_of_y))))
    different, values = len({key for key, _ in drawn}), [value for _, value in drawn]
    varied = size < min(len(x), len(y)) and different > 1
    return Estimate(float(np.mean(values)), float(np.std(values)) if varied else None, different, size)


def kernel_distance(
    x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "m dim"], subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float | None]:
    """Value and standard deviation of the `estimate` (which see). The latter is None where a subset is all of a set."""
    return estimate(x, y, subsets, subset_size, seed)[:2]


def squared_mmd(x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "m dim"]) -> float:
    """The unbiased estimate of E k(x, x') + E k(y, y') - 2 E k(x, y): no image is compared with itself.

    Raises InputError as `estimate` does.
    """
    x, y = np.asarray(table(x), np.float64), np.asarray(table(y), np.float64)
    same_dimensions(x.shape[1], y.shape[1])
    if min(len(x), len(y)) < 2:
        raise InputError(f"a kernel distance needs at least 2 images of either kind, not {min(len(x), len(y))}; add some")
    return float(_mean_of_pairs(x) + _mean_of_pairs(y) - 2 * _mean_of_cross(x, y))


class _Memory:
    """Calls a function with the same `key` once only."""

    def __init__(self):
        self._known: dict[tuple, float] = {}

    def __call__(self, fn: Callable[..., float], *args: np.ndarray, key: tuple) -> float:
        if key not in self._known:
            self._known[key] = fn(*args)
        return self._known[key]


def _mean_of_pairs(x: np.ndarray) -> float:
    kernel = _kernel(x @ x.T, x.shape[1])
    return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))


def _mean_of_cross(x: np.ndarray, y: np.ndarray) -> float:
    return _kernel(x @ y.T, x.shape[1]).mean()


def _kernel(products: np.ndarray, dim: int) -> np.ndarray:
    base = products / dim + 1
    return base * base * base  # several times as fast as base**3
