"""How straight the flow of a model is whose noise goes to images along straight lines."""

from typing import Any

import jax.numpy as jnp

from gm_jax.core import streams
from gm_jax.diffusion import coupling
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.samplers import initial_noise
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.results import mean_and_stderr

STEPS = 100


def has_straight_lines(context: Context) -> bool:
    """Whether x_t goes from noise to image along a line at even speed: alpha = 1 - t, sigma = t, in units of t_max."""
    if context.model.diffusion is None:
        return False
    path, share = context.model.diffusion.path, jnp.linspace(0.1, 1.0, 4)
    levels = path.alpha(share * path.t_max), path.sigma(share * path.t_max)
    return bool(jnp.allclose(levels[0], 1 - share, atol=1e-6) and jnp.allclose(levels[1], share, atol=1e-6))


def straightness(context: Context) -> dict[str, Any]:
    """`straightness`: see `diffusion.coupling.straightness`; of n samples by 100 steps of Euler, without guidance."""
    path, denoiser = context.model.diffusion
    times = time_grid(path, STEPS, "uniform")

    def measure(variables, keys, labels):
        x = initial_noise(path, *streams(keys, "start"), context.dataset.image_shape)
        return coupling.straightness(path, denoiser(variables, labels), x, times)

    values = context.map(measure, context.n, context.drawn_labels(context.n))
    return {"straightness": mean_and_stderr(values)}
