"""What to ask of the compiler on the devices at hand."""

import functools
from collections.abc import Callable
from typing import Any

import jax


def jit(fn: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """`jax.jit` for networks: on a CPU without YNNPACK fusion, with which convolutions take up to twice the time."""
    return jax.jit(fn, compiler_options=_options(jax.default_backend()), **kwargs)


@functools.cache
def _options(backend: str) -> dict[str, str] | None:
    """The options that this jaxlib knows: one that it does not know makes compilation fail."""
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    if backend != "cpu":
        return None
    try:
        jax.jit(lambda x: x + 1, compiler_options=options)(0.0)
    except Exception:  # what is raised differs between versions; the option only bears on speed
        return None
    return options
