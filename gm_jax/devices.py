"""What to ask of the compiler on the devices at hand."""

import functools
from collections.abc import Callable
from typing import Any

import jax

YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
# YNNPACK makes reductions, such as those of norms and their gradients, several times as fast, but convolutions up to half as
# fast (benchmarks/cpu_options.py): so it may fuse reductions, or else nothing; the first option that is known is taken.
CHOICES = ({YNNPACK: "LIBRARY_FUSION_TYPE_REDUCE"}, {YNNPACK: ""})


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
