"""Stacked digits: three images of a data set as the channels of one, so that there are as many classes as triples of labels.

With ten digits these are 1000 modes, all equally probable, which a classifier of the single channel can count
(Metz et al. 2017, "Unrolled generative adversarial networks", section 3.3.1; Srivastava et al. 2017).
"""

import numpy as np

from gm_jax.data.dataset import Dataset

CHANNELS = 3
TRAIN, TEST = 50_000, 10_000  # triples


def stack(base: Dataset) -> Dataset:
    """Triples of grey images [h, w, 1] of either split, drawn at random but always the same, without labels.

    The label of each channel is what a classifier of `base` says of it: the result keeps `base` for that.
    """
    return Dataset(
        f"stacked_{base.name}",
        _triples(base.x_train, TRAIN, stream=0),
        None,
        _triples(base.x_test, TEST, stream=1),
        None,
        None,
        base,
    )


def _triples(x: np.ndarray, n: int, stream: int) -> np.ndarray:
    bits = np.random.Philox(key=np.array([1, stream], np.uint64)).random_raw(CHANNELS * n)  # fixed across NumPy versions
    rows = (bits % len(x)).astype(np.int64).reshape(n, CHANNELS)
    return np.ascontiguousarray(np.moveaxis(x[rows, ..., 0], 1, -1))
