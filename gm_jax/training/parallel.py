"""Two ways to run a train step on many devices, behind one interface.

`jit` (the default) works over a mesh: the batch is sharded, everything else replicated, and the compiler inserts the
collectives; it also spans several hosts. `pmap` gives every device its own copy and its own share of the batch, and sums over
devices are explicit.
Both take the same steps to float tolerance (dropout aside, whose masks differ).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gm_jax.core import PyTree
from gm_jax.devices import jit
from gm_jax.errors import InputError

AXIS = "batch"


class Parallel(NamedTuple):
    """How a run uses its devices."""

    axis_name: str | None  # what collectives of the model and the step reduce over; None where the compiler does it
    devices: int
    replicated: NamedSharding  # one logical copy on all devices
    put_state: Callable[[PyTree], PyTree]  # host or device arrays -> placed for training
    get_state: Callable[[PyTree], PyTree]  # the reverse: one logical copy
    put_batch: Callable[[PyTree], PyTree]  # [k, batch, ...] -> sharded over devices along the batch
    gather: Callable[[PyTree, np.ndarray], PyTree]  # rows [k, batch] of resident arrays, as put_batch would give them
    put_resident: Callable[[PyTree], PyTree]  # a data set -> a copy on every device
    compile: Callable[[Callable], Callable]  # dispatch (see learning.make_dispatch) -> compiled, donating its state


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def put_global(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Places arrays that every process holds whole; works within one process and across several."""

    def put(x):
        if isinstance(x, jax.Array):  # already on devices (PRNG keys among them)
            return jax.device_put(x, sharding)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def put_rows(tree: PyTree) -> PyTree:
    """Rows [batch, ...] of the host, sharded over all devices."""
    return put_global(tree, NamedSharding(_mesh(), PartitionSpec(AXIS)))


def jit_parallel() -> Parallel:
    """Batch sharded over a mesh of all devices of all hosts, the rest replicated."""
    mesh = _mesh()
    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec(None, AXIS))
    take = jax.jit(lambda tree, rows: jax.tree.map(lambda a: a[rows], tree), out_shardings=sharded)

    def compile(dispatch):
        compiled = jit(dispatch, static_argnums=4, donate_argnums=0, out_shardings=replicated)
        return lambda ts, images, labels, n, active: compiled(ts, images, labels, jnp.int32(n), active)

    return Parallel(
        axis_name=None,
        devices=mesh.size,
        replicated=replicated,
        put_state=lambda tree: put_global(tree, replicated),
        get_state=lambda tree: tree,
        put_batch=lambda tree: put_global(tree, sharded),
        gather=lambda tree, rows: take(tree, put_global(rows, replicated)),
        put_resident=lambda tree: put_global(tree, replicated),
        compile=compile,
    )


def pmap_parallel() -> Parallel:
    """A copy of the state and a share of the batch for each device of this host. Raises InputError on several hosts."""
    if jax.process_count() > 1:
        raise InputError("parallel=pmap runs on one host; use --config.parallel=jit for several")
    mesh = _mesh()
    by_device = NamedSharding(mesh, PartitionSpec(AXIS))
    replicated = NamedSharding(mesh, PartitionSpec())

    def split(a):  # [k, batch, ...] -> [devices, k, batch / devices, ...]
        return a.reshape(a.shape[0], mesh.size, -1, *a.shape[2:]).swapaxes(0, 1)

    take = jax.jit(lambda tree, rows: jax.tree.map(lambda a: split(a[rows]), tree), out_shardings=by_device)

    def compile(dispatch):
        pmapped = jax.pmap(dispatch, AXIS, in_axes=(0, 0, 0, None), static_broadcasted_argnums=4, donate_argnums=0)
        compiled = _one_at_a_time(pmapped)

        def run(ts, images, labels, n, active):
            ts, output, ok = compiled(ts, images, labels, n, active)
            return ts, *jax.tree.map(lambda a: a[0], (output, ok))

        return run

    def each(function, sharding):  # one compilation for a whole tree, where eager operations would take one per shape
        return jax.jit(lambda tree: jax.tree.map(function, tree), out_shardings=sharding)

    return Parallel(
        axis_name=AXIS,
        devices=mesh.size,
        replicated=replicated,
        put_state=each(lambda a: jnp.broadcast_to(a, (mesh.size, *jnp.shape(a))), by_device),
        get_state=each(lambda a: a[0], replicated),
        put_batch=_one_at_a_time(lambda tree: put_global(jax.tree.map(split, tree), by_device)),
        gather=_one_at_a_time(lambda tree, rows: take(tree, put_global(rows, replicated))),
        put_resident=lambda tree: put_global(tree, replicated),
        compile=compile,
    )


def _one_at_a_time(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` itself; on a CPU it waits for its result: more collectives in flight than threads there would block each other."""
    return fn if jax.default_backend() != "cpu" else lambda *args: jax.block_until_ready(fn(*args))


PARALLEL = {"jit": jit_parallel, "pmap": pmap_parallel}
