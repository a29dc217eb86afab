"""Which classes generated images show, and how evenly: from what a classifier says of them."""

import numpy as np
from jaxtyping import Float, Int

from gm_jax.errors import InputError


def classes_covered(counts: Int[np.ndarray, " classes"]) -> int:
    """How many classes at least one image shows."""
    return int(np.count_nonzero(counts))


def class_kl(counts: Int[np.ndarray, " classes"], expected: Float[np.ndarray, " classes"]) -> float:
    """KL(shares of the classes among the images || expected shares), in nats.

    0 where they are the same; log(classes) where all images show one of equally probable classes. n fair draws of K classes
    have about (K - 1) / 2n on average. Raises InputError without counts, and for an image of a class that is never expected.
    """
    counts, expected = np.asarray(counts, np.float64), np.asarray(expected, np.float64)
    if counts.sum() <= 0 or expected.sum() <= 0:
        raise InputError("no images were counted; give at least one")
    p, q = counts / counts.sum(), expected / expected.sum()
    shown = p > 0
    if (q[shown] == 0).any():
        raise InputError("an image shows a class that the data have not; compare with data of all classes")
    return float((p[shown] * np.log(p[shown] / q[shown])).sum())
