"""The order of the data as a pure function of (seed, step): a resumed run needs no iterator state."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Int

from gm_jax.core import PyTree


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    """The order of one epoch. Philox's raw stream is fixed across NumPy versions, as `Generator.permutation` is not."""
    bits = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
    return np.argsort(bits, kind="stable").astype(np.int32)


def batch_rows(seed: int, size: int, batch_size: int, step: int, steps: int) -> Int[np.ndarray, "steps batch"]:
    """Rows of the data set that steps `step`, ..., `step + steps - 1` see.

    Every epoch sees each row once; batches run on across the end of an epoch, so that none is short.
    """
    position = np.arange(step * batch_size, (step + steps) * batch_size)
    epoch, offset = np.divmod(position, size)
    rows = np.empty_like(position, dtype=np.int32)
    for e in np.unique(epoch):
        rows[epoch == e] = permutation(seed, int(e), size)[offset[epoch == e]]
    return rows.reshape(steps, batch_size)


def make_feed(arrays: PyTree, parallel: Any, *, batch_size: int, seed: int, device_bytes: int) -> Callable[[int, int], PyTree]:
    """`feed(step, steps)`: the batches [steps, batch, ...] of those steps, on the devices.

    Args:
        arrays: host arrays with one leading axis in common (uint8 images; labels or None).
        parallel: a `gm_jax.training.parallel.Parallel`.
        device_bytes: arrays of at most this size live on the devices; larger ones stream from the host, in the same order.
    """
    leaves = [a for a in arrays if a is not None]
    size = len(leaves[0])
    if sum(a.nbytes for a in leaves) <= device_bytes:
        resident = parallel.put_resident(arrays)
        return lambda step, steps: parallel.gather(resident, batch_rows(seed, size, batch_size, step, steps))

    def stream(step, steps):
        rows = batch_rows(seed, size, batch_size, step, steps)
        return parallel.put_batch(tuple(None if a is None else a[rows] for a in arrays))

    return stream
