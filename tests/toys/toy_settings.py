"""A model that is never built: its settings are what the command line is tested on."""

from gm_jax.core import Model


def make(
    image_shape, *, multipliers: tuple[int, ...] = (1, 2), scales: tuple[float, ...] = (0.5,), width: int | None = None
) -> Model:
    return Model(init=None, objectives=(), sample=None)
