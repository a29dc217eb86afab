"""Samplers that run the SDE of Song et al. 2021 (https://arxiv.org/abs/2011.13456) backwards, its score from the denoiser.

All end with E[x0 | x_t] at the last time of the grid before 0.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from gm_jax.diffusion.paths import Denoiser, Images, Path, Time, like
from gm_jax.diffusion.predictions import drift_and_diffusion, to_eps
from gm_jax.diffusion.samplers import Sampler, memoryless, normal


def score(path: Path, denoiser: Denoiser, x: Images, t: Time) -> Images:
    """grad log p(x_t)."""
    return -to_eps(path, denoiser(x, t), x, t) / like(path.sigma(t), x)


def euler_maruyama(path: Path, denoiser: Denoiser) -> Sampler:
    """Steps of dx = (f x - g^2 score) dt + g dw (eq. 6). Raises ValueError for a path that ends in pure noise, where f is not
    finite."""
    _check_signal(path, "euler_maruyama")

    def step(keys, x, t, s):
        def before_the_end():
            f, g2 = drift_and_diffusion(path, t, x)
            mean = x + (s - t) * (f * x - g2 * score(path, denoiser, x, t))
            return mean + jnp.sqrt(g2 * (t - s)) * normal(keys, x.shape[1:])

        return jax.lax.cond(s > 0, before_the_end, lambda: denoiser(x, t))

    return memoryless(step)


def predictor_corrector(path: Path, denoiser: Denoiser, snr: float = 0.16, corrector_steps: int = 1) -> Sampler:
    """At each time `corrector_steps` of Langevin dynamics (algorithm 5), then one of reverse diffusion (eq. 46).

    snr: the norm of the score's part of a corrector's step to that of the noise. Norms are of each example; the authors' are
    means over the batch. The share of alpha^2 that a step loses stands for their 1 - beta. Raises ValueError for snr <= 0, for
    less than one corrector step, and for a path that ends in pure noise.
    """
    if snr <= 0 or corrector_steps < 1:
        raise ValueError(f"snr={snr:g} must be above 0, and corrector_steps={corrector_steps} at least 1")
    _check_signal(path, "predictor_corrector")

    def step(keys, x, t, s):
        kept = path.alpha(t) / path.alpha(s)  # of the signal, from s to t
        variance = path.sigma(t) ** 2 - (kept * path.sigma(s)) ** 2

        def correct(x, k):
            z, slope = normal(_of(keys, k), x.shape[1:]), score(path, denoiser, x, t)
            size = 2 * (kept * snr * _norm(z) / _norm(slope)) ** 2
            return x + size * slope + jnp.sqrt(2 * size) * z, None

        x, _ = jax.lax.scan(correct, x, jnp.arange(corrector_steps))

        def predict():
            mean = (2 - kept) * x + variance * score(path, denoiser, x, t)
            return mean + jnp.sqrt(variance) * normal(_of(keys, corrector_steps), x.shape[1:])

        return jax.lax.cond(s > 0, predict, lambda: denoiser(x, t))

    return memoryless(step, nfe=lambda steps: steps * (corrector_steps + 1))


def _of(keys: Array, k: Array | int) -> Array:
    return jax.vmap(jax.random.fold_in, (0, None))(keys, k)


def _norm(x: Images) -> Array:
    return jnp.sqrt((x**2).sum(axis=tuple(range(1, x.ndim)), keepdims=True))


def _check_signal(path: Path, name: str) -> None:
    with jax.ensure_compile_time_eval():
        if path.alpha(jnp.asarray(path.t_max)) == 0:
            raise ValueError(f"{name} cannot start from pure noise, alpha = 0; choose a smaller t_max or another sampler")
