"""What devices and other processes may do to a run, in words that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from gm_jax.errors import InputError
from gm_jax.training.memory import HINT

COMMUNICATION = ("gloo", "nccl", "coordination", "heartbeat", "barrier", "socket closed")  # in what is said of lost processes


class LostProcess(RuntimeError):
    """Another process of the run is gone. An orderly end would wait for it, so end at once."""


@contextmanager
def explained() -> Iterator[None]:
    """Turns what JAX raises where a device has no more memory into an InputError, where a process is gone into LostProcess."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # gloo's come as either
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
            raise InputError(f"a device ran out of memory: {HINT}") from error
        if jax.process_count() > 1 and any(word in str(error).lower() for word in COMMUNICATION):
            reason = str(error).partition("\n")[0][:200]
            raise LostProcess(
                f"another process of this run has ended, it seems ({reason}); start the same command on all hosts to resume"
            ) from error
        raise
