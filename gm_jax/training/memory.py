"""What training holds on each device, against what the device has."""

import os
from typing import Any, NamedTuple

import jax

from gm_jax.core import PyTree
from gm_jax.training.learning import TrainState

HINT = (
    "raise train.accum (microbatches), lower train.batch_size, set model.network.remat=True where the network has it, "
    "or parallel=fsdp"
)


class Memory(NamedTuple):
    """Bytes on one device."""

    parameters: int
    optimizer: int  # its state, averaged parameters included
    state: int  # of the model
    data: int  # resident images and labels
    step: int  # what the compiled step needs beyond these: activations, gradients, batches
    limit: int | None  # of the device; on a CPU, that of the machine

    @property
    def total(self) -> int:
        return self.parameters + self.optimizer + self.state + self.data + self.step

    @property
    def fits(self) -> bool:
        """Whether it all goes in, as far as is known."""
        return self.limit is None or self.total <= self.limit


def device_bytes(tree: PyTree) -> int:
    """Bytes of placed arrays on their first local device."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _bytes(leaf: jax.Array) -> int:
    return leaf.addressable_shards[0].data.nbytes


def measure(train_state: TrainState, resident: int, compiled: Any) -> Memory:
    """Of a placed train state, the bytes of resident data, and a compiled step (of which not every backend tells the needs)."""
    use = compiled.memory_analysis()
    held = device_bytes(train_state)
    needed = (
        use.argument_size_in_bytes + use.output_size_in_bytes + use.temp_size_in_bytes - use.alias_size_in_bytes if use else 0
    )
    return Memory(
        parameters=device_bytes(train_state.params),
        optimizer=device_bytes(train_state.opt_state),
        state=device_bytes(train_state.state),
        data=resident,
        step=max(0, needed - held),
        limit=device_limit(),
    )


def program_bytes(use: Any) -> int:
    """What a compiled program holds on a device, of its memory analysis: arguments, results and temporaries."""
    return use.argument_size_in_bytes + use.output_size_in_bytes + use.temp_size_in_bytes - use.alias_size_in_bytes


def device_limit() -> int | None:
    """Bytes of a local device that JAX may use; on a CPU those of the machine; None if neither is known."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    if jax.default_backend() != "cpu" or not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def describe(memory: Memory) -> str:
    """One line, and another one where it will not fit."""
    parts = [f"{name} {_readable(getattr(memory, name))}" for name in memory._fields[:-1] if getattr(memory, name)]
    limit = f" of {_readable(memory.limit)}" if memory.limit is not None else ""
    line = f"memory per device: {', '.join(parts)}; {_readable(memory.total)}{limit}"
    return line if memory.fits else f"{line}\nthis will hardly fit: {HINT}"


def _readable(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
