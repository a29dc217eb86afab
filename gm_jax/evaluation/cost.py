"""What a model costs: its size, its arithmetic, and the time and memory that drawing from it and training it take."""

import contextlib
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gm_jax.core import Objective
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.results import mean_and_stderr
from gm_jax.images import to_uint8
from gm_jax.system import provenance
from gm_jax.system.devices import jit
from gm_jax.system.flops import flops
from gm_jax.training import workdirs
from gm_jax.training.memory import program_bytes
from gm_jax.training.records import read_speed
from gm_jax.training.speed import batch_shapes, update_flops

LONG = 10.0  # seconds after which a batch needs no other one to warm up before, or to confirm it after
MIN_BATCHES, MIN_SECONDS = 3, 1.0  # of a shorter one so many are timed, for so long
TRAINED = ("n", "weights", "seed", "step")  # none of which bears on what a model costs
UNSAMPLED = {"without": (*TRAINED, "sampling", "nfe")}


def cost(context: Context) -> dict[str, Any]:
    """Everything under names that begin with `cost_`, none of it dependent on what the weights are.

    Of drawing n samples at once (no more than the batch size; a multiple of the number of devices) with the sampling options:
    `cost_seconds_per_1000_samples`, from keys on the device to uint8 images on the host, all local devices at work, without
    compilation, which takes `cost_compile_seconds`, tracing included; `cost_sampler_memory_bytes`, what the compiled program
    holds on a device: variables, results and temporaries; `cost_peak_device_memory_bytes`, the most ever in use on a device or,
    where devices do not tell, `cost_peak_process_memory_bytes`, the largest resident set: either includes what the process did
    before; `cost_nfe`.

    Of one image, in FLOPs as `evaluation.flops` counts them: `cost_sample_flops_per_image`, all of sampling;
    `cost_network_flops_per_image`, one evaluation of the network in it (the mean, for a model that does not denoise);
    `cost_train_flops_per_image`, a train step with its gradients: the mean over the steps made so far, and by objective.

    `cost_parameters`. From the records of the run, where there are any: `cost_train_images_per_second`, `cost_train_minutes`,
    and `cost_train_mfu`, the share that those FLOPs have of what the devices reach in large matrix products.
    """
    parameters = sum(leaf.size for leaf in jax.tree.leaves(context.variables.params))
    entries = {"cost_parameters": {"value": parameters} | UNSAMPLED}
    entries |= sampling_arithmetic(context) | sampling(context)
    if context.workdir is not None:
        entries |= training(context)
    return entries


def default_n(context: Context) -> int:
    """A whole batch, which a CPU, where a larger batch is no faster, is spared."""
    return 64 if jax.default_backend() == "cpu" else context.batch_size


# --- sampling -----------------------------------------------------------------------------------------------------------------


def sampling_arithmetic(context: Context) -> dict[str, Any]:
    """NFE and FLOPs; those that are not known have no entry."""
    model = context.model
    nfe = math.nan if model.nfe is None else model.nfe(**context.options)
    if model.diffusion is not None:
        x, t = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, *context.dataset.image_shape), ()))
        network = flops(lambda variables, x, t: model.diffusion.denoiser(variables)(x, t), context.variables, x, t)
        sample = nfe * network
    else:
        keys, labels = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)), context.drawn_labels(1)
        sample = flops(lambda v, keys: model.sample(v, keys, labels, **context.options), context.variables, keys)
        network = sample / nfe
    found = {"cost_nfe": nfe, "cost_network_flops_per_image": network, "cost_sample_flops_per_image": sample}
    return {name: {"value": value, "without": TRAINED} for name, value in found.items() if math.isfinite(value)}


def sampling(context: Context) -> dict[str, Any]:
    """Seconds and bytes of drawing one batch."""
    batch = min(context.n, context.batch_size)
    n = -(-batch // jax.local_device_count()) * jax.local_device_count()
    draw, memory, compile_seconds = _compile_sampler(context, n)
    seconds = np.array(timed(draw))
    peak, kind = peak_memory()
    origin = {"n": n, "hardware": provenance.hardware(), "without": TRAINED[1:]}
    return {
        "cost_seconds_per_1000_samples": mean_and_stderr(1000 / n * seconds) | {"repeats": len(seconds)} | origin,
        "cost_compile_seconds": {"value": compile_seconds} | origin,
        "cost_sampler_memory_bytes": {"value": memory} | origin,
        f"cost_peak_{kind}_memory_bytes": {"value": peak} | origin,
    }


def _compile_sampler(context: Context, n: int) -> tuple[Callable[[], Any], int, float]:
    """(what draws n samples as uint8 images on the host, bytes that it takes on a device, seconds that compiling it took)."""
    mesh = Mesh(np.array(jax.local_devices()), ("batch",))
    split, replicated = NamedSharding(mesh, PartitionSpec("batch")), NamedSharding(mesh, PartitionSpec())
    variables = jax.device_put(context.variables, replicated)
    given = jax.device_put((jax.random.split(jax.random.key(context.seed), n), context.drawn_labels(n)), split)

    def draw(variables, keys, labels):
        x = context.model.sample(variables, keys, labels, **context.options)
        return x if context.points else to_uint8(x)

    with compilation_cache_off():
        start = time.perf_counter()
        compiled = jit(draw).lower(variables, *given).compile()
        seconds = time.perf_counter() - start
    memory = program_bytes(compiled.memory_analysis())
    return lambda: jax.device_get(compiled(variables, *given)), memory, seconds


@contextlib.contextmanager
def compilation_cache_off() -> Iterator[None]:
    """Programs are compiled, not read from where an earlier process left them."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # which would else remember that it was on
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def timed(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Seconds that each of several calls took: 3 or more within at least a second, after one to warm up; or of one long one."""

    def seconds_of_one() -> float:
        start = clock()
        run()
        return clock() - start

    first, seconds = seconds_of_one(), []
    if first >= LONG:
        return [first]
    while len(seconds) < MIN_BATCHES or sum(seconds) < MIN_SECONDS:
        seconds.append(seconds_of_one())
    return seconds


def peak_memory() -> tuple[int, str]:
    """(bytes, "device" or "process"): the most that this process has had in use on a device, or, if none tells, in all."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(s and "peak_bytes_in_use" in s for s in stats):
        return max(s["peak_bytes_in_use"] for s in stats), "device"
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "process"


# --- training -----------------------------------------------------------------------------------------------------------------


def training(context: Context) -> dict[str, Any]:
    """FLOPs of a train step, and the speed and time that the run's records tell."""
    record, speed = workdirs.read(context.workdir), read_speed(context.workdir)
    batch_size = record.config["train"]["batch_size"]
    entries = {}
    batch = batch_shapes(batch_size, context.dataset.image_shape, context.dataset.num_classes)
    flops_of = {o.name: update_flops(o, context.variables, batch, context.step) for o in context.model.objectives}
    by_objective = {name: value / batch_size for name, value in flops_of.items()}
    steps = max(context.step, 1)
    mean = sum(by_objective[o.name] * updates(o, steps) / steps for o in context.model.objectives)
    if math.isfinite(mean):
        of_step = {"value": mean, "batch_size": batch_size, "by_objective": by_objective}
        entries["cost_train_flops_per_image"] = of_step | UNSAMPLED
    origin = {"batch_size": batch_size, "steps": speed.step, "versions": record.versions}
    origin |= {"hardware": record.hardware, "device": record.hardware}
    if speed.steps_per_second:
        entries["cost_train_images_per_second"] = {"value": speed.steps_per_second * batch_size} | origin | UNSAMPLED
        entries["cost_train_minutes"] = {"value": speed.seconds / 60} | origin | UNSAMPLED
    if speed.mfu is not None:
        entries["cost_train_mfu"] = {"value": speed.mfu} | origin | UNSAMPLED
    return entries


def updates(objective: Objective, steps: int) -> int:
    """How many of the first `steps` steps update this objective."""
    end = steps if objective.stop is None else min(steps, objective.stop)
    return max(0, end - objective.start) // objective.every
