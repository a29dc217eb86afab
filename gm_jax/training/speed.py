"""How much arithmetic a train step is, and what share of the devices' matrix rate a run reaches."""

import functools
import math
import time

import jax
import jax.numpy as jnp

from gm_jax.core import Batch, Model, Objective, Variables
from gm_jax.system.flops import flops
from gm_jax.training import learning
from gm_jax.training.batches import make_batch, seed_keys, stored_shapes

SIDE = {"cpu": 512}  # of the square matrices that are multiplied; elsewhere:
LARGE_SIDE = 8192
PRODUCTS, REPEATS = 4, 5


def update_flops(objective: Objective, variables: Variables, batch: Batch, step: int = 0) -> float:
    """FLOPs of one update of `objective`, without the optimizer's own; infinite if they are unknown. Shapes are enough."""

    def gradients(params, state, batch):
        return learning.gradients(objective, params, state, jax.random.key(0), batch, jnp.int32(step), None)

    return flops(gradients, *variables, batch)


def batch_shapes(n: int, image_shape: tuple[int, ...], num_classes: int | None) -> Batch:
    """The shapes of a batch of n examples."""

    def make(data, labels):
        return make_batch(seed_keys(0), 0, jnp.arange(n), data, labels, False)

    return jax.eval_shape(make, *stored_shapes(n, image_shape, num_classes))


@functools.cache
def matrix_rate(dtype: jnp.dtype) -> float:
    """FLOP/s that all devices together reach in products of large square matrices of `dtype`: measured, the best of some.

    Against it "model FLOPs utilisation" (MFU) is stated: it takes a fraction of a second, and unlike a data sheet's figure can
    be reached. The devices that a CPU is divided into share its cores, so there one process counts once.
    """
    backend = jax.default_backend()
    side = SIDE.get(backend, LARGE_SIDE)
    a = jnp.full((side, side), 1 / side, dtype)

    @jax.jit
    def multiply(a):
        x = a
        for _ in range(PRODUCTS):
            x = x @ a
        return x

    multiply(a).block_until_ready()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        multiply(a).block_until_ready()
        seconds.append(time.perf_counter() - start)
    units = jax.process_count() if backend == "cpu" else jax.device_count()
    return units * PRODUCTS * 2 * side**3 / min(seconds)


class Utilisation:
    """The share of the devices' matrix rate that a run reaches; what it needs is found out when first asked for."""

    def __init__(self, model: Model, variables: Variables, batch: Batch, dtype: jnp.dtype):
        self._model, self._example, self._dtype = model, (variables, batch), dtype

    @functools.cached_property
    def _updates(self) -> dict[str, float]:
        return {o.name: update_flops(o, *self._example) for o in self._model.objectives}

    def step_flops(self, step: int) -> float:
        """FLOPs of the train step number `step`, the mean over the periods of its objectives; infinite if not known."""
        return sum(self._updates[o.name] / o.every for o in self._model.objectives if learning.in_window(o, step))

    def rate(self) -> float:
        """FLOP/s of all devices; see `matrix_rate`."""
        return matrix_rate(self._dtype)

    def of(self, step: int, steps_per_second: float) -> float | None:
        """Model FLOPs utilisation, 0 to 1, of steps such as number `step`; None if its arithmetic is not known."""
        used = self.step_flops(step) * steps_per_second / self.rate()
        return used if math.isfinite(used) else None
