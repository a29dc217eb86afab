"""What to ask of the compiler and of the C library for the devices at hand."""

import contextlib
import ctypes
import functools
import platform
from collections.abc import Callable
from typing import Any

import jax

YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
# YNNPACK makes reductions, such as those of norms and their gradients, several times as fast, but convolutions up to half as
# fast (benchmarks/cpu_options.py): so it may fuse reductions, or else nothing; the first option that is known is taken.
CHOICES = ({YNNPACK: "LIBRARY_FUSION_TYPE_REDUCE"}, {YNNPACK: ""})

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's mallopt


def keep_memory() -> None:
    """Lets a step on a CPU reuse the memory of the step before. For the start of a program, before JAX looks for devices.

    XLA allocates the temporary arrays of each run of a program anew. Those of a train step are so large that glibc hands them
    back to the system every time, and the next step pays a page fault for every 4 kB: up to a sixth of its time. So glibc shall
    keep what is freed, and JAX run programs in the thread that calls them, the only one whose heap can grow without bounds.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, -1)  # never
        mallopt(M_MMAP_MAX, 0)  # nothing outside the heap, from which all is handed back
        with contextlib.suppress(AttributeError):  # only bears on speed, where a version has it
            jax.config.update("jax_cpu_enable_async_dispatch", False)


def jit(fn: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """`jax.jit` for networks: with the compiler options that make them fast."""
    return jax.jit(fn, compiler_options=_options(jax.default_backend()), **kwargs)


@functools.cache
def _options(backend: str) -> dict[str, str] | None:
    """The first of `CHOICES` that this jaxlib knows: one that it does not know makes compilation fail."""
    for options in CHOICES if backend == "cpu" else ():
        try:
            jax.jit(lambda x: x + 1, compiler_options=options)(0.0)
        except Exception:  # what is raised differs between versions; the options only bear on speed
            continue
        return options
    return None
