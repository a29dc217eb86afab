"""Three ways to run a train step on many devices, behind one interface.

`jit` (the default) works over a mesh: the batch is sharded, everything else replicated, and the compiler inserts the
collectives; it also spans several hosts. `fsdp` is the same with the train state sharded, too, for models that outgrow one
device. `pmap` gives every device its own copy and its own share of the batch, and sums over devices are explicit.
All take the same steps to float tolerance (dropout aside, whose masks differ under pmap).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gm_jax.core import Model, PyTree
from gm_jax.errors import InputError
from gm_jax.system.devices import jit

AXIS = "batch"
SMALL = 1024  # numbers; fsdp leaves arrays below that size whole


class Parallel(NamedTuple):
    """How a run uses its devices."""

    axis_name: str | None  # what collectives of the model and the step reduce over; None where the compiler does it
    devices: int
    shardings: Callable[[PyTree], PyTree]  # one logical copy of a state (or its shapes) -> how its arrays lie on the devices
    adapt: Callable[[Model], Model]  # the model as the train step is to see it
    put_state: Callable[[PyTree], PyTree]  # host or device arrays -> placed for training
    get_state: Callable[[PyTree], PyTree]  # the reverse: one logical copy
    put_batch: Callable[[PyTree], PyTree]  # [k, batch, ...] -> sharded over devices along the batch
    gather: Callable[[PyTree, np.ndarray], PyTree]  # rows [k, batch] of resident arrays, as put_batch would give them
    put_resident: Callable[[PyTree], PyTree]  # a data set -> a copy on every device
    compile: Callable[[Callable, PyTree], "Program"]  # (dispatch of learning.make_dispatch, shapes of the state) -> compiled


class Program:
    """A dispatch, compiled ahead for each set of active objectives; it gives the memory of the state back to the new state."""

    def __init__(self, jitted: Callable[..., Any], run: Callable[..., Any] = lambda compiled, *args: compiled(*args)):
        self._jitted, self._run = jitted, run
        self.compiled: dict[tuple[str, ...], Any] = {}

    def prepare(self, ts: PyTree, images: PyTree, labels: PyTree, n: int, active: tuple[str, ...]) -> bool:
        """Compiles for these objectives, and for arrays of these shapes; False if that was done before."""
        if active in self.compiled:
            return False
        self.compiled[active] = self._jitted.lower(ts, images, labels, jnp.int32(n), active).compile()
        return True

    def __call__(self, ts: PyTree, images: PyTree, labels: PyTree, n: int, active: tuple[str, ...]) -> tuple[Any, Any, Any]:
        """(train_state, StepOutput, failed). Raises TypeError for arrays of other shapes than those compiled for."""
        self.prepare(ts, images, labels, n, active)
        return self._run(self.compiled[active], ts, images, labels, jnp.int32(n))


def _mesh() -> Mesh:
    return Mesh(np.array(jax.devices()), (AXIS,))


def put_global(tree: PyTree, sharding: PyTree) -> PyTree:
    """Places arrays that every process holds whole, by one sharding or a tree of them, in one process or in each of several."""

    def put(x, sharding):
        if isinstance(x, jax.Array):  # already on devices (PRNG keys among them)
            return jax.device_put(x, sharding)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda x: put(x, sharding), tree)
    return jax.tree.map(put, tree, sharding)


def to_host(tree: PyTree) -> PyTree:
    """A whole copy in host memory, array by array. Where devices of other processes hold parts, all processes must call it."""

    def fetch(leaf):
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
            return jax.device_get(leaf)
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(fetch, tree)


def put_rows(tree: PyTree) -> PyTree:
    """Rows [batch, ...] of the host, sharded over all devices."""
    return put_global(tree, NamedSharding(_mesh(), PartitionSpec(AXIS)))


def jit_parallel() -> Parallel:
    """Batch sharded over a mesh of all devices of all hosts, the rest replicated."""
    return _over_mesh(lambda mesh, leaf: PartitionSpec(), adapt=lambda mesh, model: model)


def fsdp_parallel() -> Parallel:
    """As `jit_parallel`, but a device holds only its share of parameters, optimizer state and averages ("fully sharded").

    Each array is split along its longest axis that the number of devices divides; small ones stay whole. A step gathers the
    parameters that it computes with (as ZeRO does: Rajbhandari et al. 2020).
    """

    def spec(mesh, leaf):
        fitting = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if not fitting or leaf.size < SMALL:
            return PartitionSpec()
        longest = max(fitting, key=lambda axis: leaf.shape[axis])
        return PartitionSpec(*[AXIS if axis == longest else None for axis in range(len(leaf.shape))])

    return _over_mesh(spec, adapt=_gathering)


def _gathering(mesh: Mesh, model: Model) -> Model:
    """The model with objectives that first gather their parameters, so that the batch alone is split in the computation."""
    whole = NamedSharding(mesh, PartitionSpec())

    def gathered(loss):
        return lambda params, *args, **kwargs: loss(jax.lax.with_sharding_constraint(params, whole), *args, **kwargs)

    return model._replace(objectives=tuple(o._replace(loss=gathered(o.loss)) for o in model.objectives))


def _over_mesh(spec: Callable[[Mesh, Any], PartitionSpec], adapt: Callable[[Mesh, Model], Model]) -> Parallel:
    mesh = _mesh()
    replicated = NamedSharding(mesh, PartitionSpec())
    sharded = NamedSharding(mesh, PartitionSpec(None, AXIS))
    take = jax.jit(lambda tree, rows: jax.tree.map(lambda a: a[rows], tree), out_shardings=sharded)

    def shardings(tree):
        return jax.tree.map(lambda leaf: NamedSharding(mesh, spec(mesh, leaf)), tree)

    def compile(dispatch, abstract):
        out_shardings = (shardings(abstract), replicated, replicated)
        return Program(jit(dispatch, static_argnums=4, donate_argnums=0, out_shardings=out_shardings))

    return Parallel(
        axis_name=None,
        devices=mesh.size,
        shardings=shardings,
        adapt=lambda model: adapt(mesh, model),
        put_state=lambda tree: put_global(tree, shardings(tree)),
        get_state=lambda tree: tree,
        put_batch=lambda tree: put_global(tree, sharded),
        gather=lambda tree, rows: take(tree, put_global(rows, replicated)),
        put_resident=lambda tree: put_global(tree, replicated),
        compile=compile,
    )


def pmap_parallel() -> Parallel:
    """A copy of the state and a share of the batch for each device of this host. Raises InputError on several hosts."""
    if jax.process_count() > 1:
        raise InputError("parallel=pmap runs on one host; use --config.parallel=jit or fsdp for several")
    mesh = _mesh()
    by_device = NamedSharding(mesh, PartitionSpec(AXIS))
    replicated = NamedSharding(mesh, PartitionSpec())

    def split(a):  # [k, batch, ...] -> [devices, k, batch / devices, ...]
        return a.reshape(a.shape[0], mesh.size, -1, *a.shape[2:]).swapaxes(0, 1)

    take = jax.jit(lambda tree, rows: jax.tree.map(lambda a: split(a[rows]), tree), out_shardings=by_device)

    def compile(dispatch, abstract):
        def run(compiled, *args):
            ts, output, failed = _one_at_a_time(compiled)(*args)
            return ts, *jax.tree.map(lambda a: a[0], (output, failed))

        return Program(jax.pmap(dispatch, AXIS, in_axes=(0, 0, 0, None), static_broadcasted_argnums=4, donate_argnums=0), run)

    def each(function, sharding):  # one compilation for a whole tree, where eager operations would take one per shape
        return jax.jit(lambda tree: jax.tree.map(function, tree), out_shardings=sharding)

    return Parallel(
        axis_name=AXIS,
        devices=mesh.size,
        shardings=lambda tree: jax.tree.map(lambda _: replicated, tree),
        adapt=lambda model: model,
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


PARALLEL = {"jit": jit_parallel, "fsdp": fsdp_parallel, "pmap": pmap_parallel}
