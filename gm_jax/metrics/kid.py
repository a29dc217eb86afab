"""Kernel distance: the squared maximum mean discrepancy under a cubic kernel. On Inception features, the KID.

Binkowski et al. 2018, section 4: k(x, y) = (x.y / d + 1)^3 and the unbiased estimator of Gretton et al. 2012, eq. 3.
"""

import numpy as np
from jaxtyping import Float

from gm_jax.errors import InputError


def kernel_distance(
    x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "m dim"], subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation of the unbiased MMD^2 over random subsets, drawn without replacement from either set.

    Its expectation does not depend on the numbers of images, and is 0 for equal distributions: single values may be negative.
    A subset has at most as many images as the smaller set. Raises InputError for less than two images or other dimensions.
    """
    if x.shape[1] != y.shape[1]:
        raise InputError(f"features of {x.shape[1]} and of {y.shape[1]} dimensions have no distance; take one extractor")
    size = min(subset_size, len(x), len(y))
    if size < 2:
        raise InputError(f"a kernel distance needs at least 2 images of either kind, not {size}; add some")
    rng = np.random.default_rng(seed)
    values = [
        squared_mmd(x[rng.choice(len(x), size, replace=False)], y[rng.choice(len(y), size, replace=False)])
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


def squared_mmd(x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "m dim"]) -> float:
    """The unbiased estimate of E k(x, x') + E k(y, y') - 2 E k(x, y): no image is compared with itself."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    return float(_mean_of_pairs(x) + _mean_of_pairs(y) - 2 * _kernel(x @ y.T, x.shape[1]).mean())


def _mean_of_pairs(x: np.ndarray) -> float:
    kernel = _kernel(x @ x.T, x.shape[1])
    return (kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1))


def _kernel(products: np.ndarray, dim: int) -> np.ndarray:
    base = products / dim + 1
    return base * base * base  # several times as fast as base**3
