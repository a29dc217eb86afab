"""Noise-conditional score networks (Song & Ermon 2019, https://arxiv.org/abs/1907.05600; NCSNv2: Song & Ermon 2020,
https://arxiv.org/abs/2006.09011).

Images are seen under noise of L levels, x_t = x0 + sigma_t eps, with sigma_1 < ... < sigma_L a geometric sequence. (The papers
count the other way; here as everywhere in this package t grows from data to noise, and t = 0 is the clean image.) A network
s(x_t, t) learns the score, the gradient of log q(x_t), by denoising score matching, weighted by sigma^2 (2019, eq. 5-6):

    loss = E_t E_eps 1/2 sigma_t^2 ||s(x_t, t) + eps / sigma_t||^2,    t uniform on 1..L.

Since E[x0 | x_t] = x_t + sigma_t^2 s(x_t, t), a score is a denoiser, and every sampler of `gm_jax.diffusion` will do. That of
the papers is annealed Langevin dynamics (`diffusion.langevin`, which states the convention of epsilon).

Options tell NCSN from NCSNv2, whose score is the network's output over sigma, the network itself not being told the level.
Pixels are in [-1, 1], the papers' in [0, 1]: here sigmas are twice, epsilons four times what they say.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.core import Images, Model
from gm_jax.denoising import denoising_model
from gm_jax.diffusion import losses, plans
from gm_jax.diffusion.langevin import annealed_langevin, consistent_epsilon
from gm_jax.diffusion.paths import Path, Time, geometric_path
from gm_jax.nets.backbones import backbone
from gm_jax.settings import Count, NonNegative, Positive, Section, checked


def denoising_score_matching(
    path: Path, score: Callable[[Images, Time], Images], x0: Images, t: Time, eps: Images
) -> Float[Array, " batch"]:
    """sigma_t^2 times the loss of eq. 5 (2019): each image's 1/2 ||sigma_t s(x_t, t) + eps||^2, summed over pixels.

    `eps` is standard normal; `t` in 1..L, one per image. Half the number of pixels is what a score of zero costs.
    """
    return losses.denoising_loss(path, "score", score, x0, t, eps, weight=lambda c: c.sigma**2 * x0[0].size / 2)


@checked
def make(
    image_shape: tuple[int, ...],
    dtype: Any = jnp.float32,
    *,
    network: Section("network") = {"name": "refinenet"},  # noqa: B006 (read only)
    sigma_max: Positive = 2.0,
    sigma_min: Positive = 0.02,
    levels: Count = 10,
    epsilon: NonNegative = 8e-5,
    inner_steps: Count = 100,
    start: Literal["uniform", "noise"] = "uniform",
    denoise: bool = False,
    conditional: bool = True,
    divide_by_sigma: bool = False,
) -> Model:
    """NCSN on images of `image_shape`; the defaults are the CIFAR-10 model of Song & Ermon 2019.

    Args:
      network: see `nets.backbones`.
      sigma_max, sigma_min, levels: the noise levels, a geometric sequence.
      epsilon, inner_steps, start, denoise: of annealed Langevin dynamics, see `diffusion.langevin.annealed_langevin`; epsilon 0
        is NCSNv2's choice for these levels and inner_steps (`consistent_epsilon`).
      conditional: tell the network the level, by its index. NCSNv2: False.
      divide_by_sigma: the score is the network's output divided by sigma_t. NCSNv2: True.

    Sampling options: `denoising.denoising_model`; by default "langevin", with epsilon, inner_steps, start and denoise, at every
    level. Raises InputError for settings that do not fit.
    """
    path = geometric_path(sigma_min, sigma_max, levels)
    ratio, pixels = (sigma_max / sigma_min) ** (1 / (levels - 1)), math.prod(image_shape)
    langevin = partial(
        annealed_langevin,
        epsilon=epsilon or consistent_epsilon(sigma_min, ratio, inner_steps),
        inner_steps=inner_steps,
        start=start,
        denoise=denoise,
    )
    model = denoising_model(
        "ncsn",
        image_shape,
        path,
        backbone(network, image_shape, dtype, num_levels=levels if conditional else None),
        "scaled_score" if divide_by_sigma else "score",
        losses.nodes(path),
        clock="index" if conditional else "none",
        sampling={"sampler": "langevin", "steps": levels, "spacing": "nodes"},
        term="dsm",
        weight=lambda c: pixels / 2 * (jnp.ones_like(c.sigma) if divide_by_sigma else c.sigma**2),
        choices=plans.SAMPLERS | {"langevin": langevin},
    )
    model.nfe()  # so that an impossible epsilon is known before training
    return model
