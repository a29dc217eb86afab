"""Black and white images, drawn from grey ones: a pixel is white with the probability that is its level.

In training anew whenever an image is seen ("dynamic": Burda et al. 2015, section 5; Salakhutdinov & Murray 2008), so that the
training images here are those probabilities; in the test once and for all.
"""

import numpy as np
from jaxtyping import UInt8

from gm_jax.data.dataset import Dataset


def binarize(base: Dataset) -> Dataset:
    """The black and white variant of grey images: levels 0 and 255 in its test split, and in every training batch."""
    test = drawn(base.x_test, stream=1)
    return base._replace(name=f"binary_{base.name}", x_test=test, binarize=True)


def drawn(x: UInt8[np.ndarray, "*shape"], stream: int) -> UInt8[np.ndarray, "*shape"]:
    """Levels 0 and 255 for the levels x, the same for a stream every time."""
    bits = np.random.Philox(key=np.array([2, stream], np.uint64)).random_raw(x.size)  # fixed across NumPy versions
    return np.where((bits % 255).reshape(x.shape) < x, 255, 0).astype(np.uint8)
