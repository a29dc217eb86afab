"""Data that a denoiser can know exactly: x0 ~ N(MEAN, STD^2), independently per pixel, or a mixture of such Gaussians."""

import jax
import jax.numpy as jnp

from gm_jax.diffusion.paths import discrete_path, edm_path, flow_path
from gm_jax.models.ddpm import get_beta_schedule

MEAN, STD = 0.3, 0.5

PATHS = {
    "flow": flow_path(),
    "edm": edm_path(),
    "linear": discrete_path(get_beta_schedule("linear", 1000)),
    "cosine": discrete_path(get_beta_schedule("cosine", 1000)),
}


def denoiser(path, mean=MEAN, std=STD):
    """E[x0 | x_t] of Gaussian data."""

    def estimate(x_t, t):
        t = jnp.reshape(t, jnp.shape(t) + (1,) * (x_t.ndim - 1)) if jnp.ndim(t) else t
        alpha, sigma = path.alpha(t), path.sigma(t)
        return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (x_t - alpha * mean)

    return estimate


def marginal(path, t, mean=MEAN, std=STD):
    """Mean and standard deviation of x_t."""
    return path.alpha(t) * mean, jnp.sqrt(path.alpha(t) ** 2 * std**2 + path.sigma(t) ** 2)


def probability_flow(path, x, t, s):
    """The exact solution of the probability-flow ODE from x at t to s: it keeps the standardised value."""
    (mean_t, std_t), (mean_s, std_s) = marginal(path, t), marginal(path, s)
    return mean_s + std_s * (x - mean_t) / std_t


def mixture_denoiser(path, means=(-0.8, 0.2, 1.0), std=0.3):
    """E[x0 | x_t] where each pixel is of one of several Gaussians, equally often, independently."""

    def estimate(x_t, t):
        logits = jnp.stack([-(((x_t - m) / s) ** 2) / 2 for m, s in (marginal(path, t, mean, std) for mean in means)])
        each = jnp.stack([denoiser(path, mean, std)(x_t, t) for mean in means])
        return (jax.nn.softmax(logits, axis=0) * each).sum(0)

    return estimate
