"""Applies a model to any number of examples in batches of one shape, spread over the local devices."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gm_jax.core import PyTree, Variables
from gm_jax.system.devices import jit

Progress = Callable[[int, int], None]  # (examples done, examples in all)


def batches(
    fn: Callable[..., PyTree],
    variables: Variables | PyTree,
    n: int,
    *rows: Any,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Iterator[PyTree]:
    """Yields `fn(variables, keys, *rows)` as NumPy arrays, batch by batch, for n examples in order.

    `rows` are NumPy arrays of length n (or None). The examples are first, first + 1, ...; example i has the key
    `fold_in(key(seed), i)`, so that what it gets depends neither on the batch size nor on the device count. `fn` is compiled
    once; its results must have the batch as leading axis. `batch_size` is rounded up to a multiple of the local device count;
    the last batch is filled up with repetitions of the last example, which are cut off again.
    """
    devices = jax.local_devices()
    size = -(-min(batch_size, n) // len(devices)) * len(devices)
    mesh = Mesh(np.array(devices), ("batch",))
    split, replicated = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
    variables = jax.device_put(variables, replicated)

    root, apply = jax.device_put(jax.random.key(seed), replicated), _compiled(fn)

    def dispatch(start):
        indices = np.minimum(np.arange(start, start + size), n - 1)
        return apply(variables, root, *jax.device_put((first + indices, _take(rows, indices)), split))

    running = dispatch(0) if n else None
    for start in range(0, n, size):
        done = min(start + size, n)
        following = dispatch(done) if done < n else None  # the device works on it while the caller looks at this one
        yield _take(jax.device_get(running), slice(done - start))
        running = following
        if progress is not None:
            progress(done, n)


@functools.lru_cache(maxsize=8)
def _compiled(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """The same `fn` again (a training run's samples, say) is not traced again."""

    def apply(variables, root, indices, rows):
        return fn(variables, jax.vmap(jax.random.fold_in, (None, 0))(root, indices), *rows)

    return jit(apply)


def map_batches(*args: Any, **kwargs: Any) -> PyTree:
    """The results of `batches` (which see, for the arguments), joined along the leading axis: NumPy arrays [n, ...]."""
    return jax.tree.map(lambda *parts: np.concatenate(parts), *batches(*args, **kwargs))


def _take(tree: PyTree, index: Any) -> PyTree:
    return jax.tree.map(lambda a: a[index], tree)
