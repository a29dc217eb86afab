"""Computing in float64, on every version of JAX that is supported."""

from contextlib import AbstractContextManager

import jax


def x64(on: bool = True) -> AbstractContextManager[None]:
    """A context in which JAX has 64-bit numbers, or has not."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax.experimental import enable_x64

    return enable_x64(on)
