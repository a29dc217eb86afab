"""EDM: elucidating the design space of diffusion-based generative models (Karras et al. 2022, https://arxiv.org/abs/2206.00364).

Images with noise of level sigma, x = x0 + sigma eps; time is sigma. A network F is dressed so that what it sees, and what it is
asked for, have unit variance at every level (eq. 7; `diffusion.predictions.preconditioned`):

    D(x; sigma) = c_skip x + c_out F(c_in x; ln(sigma) / 4),
    c_skip = sigma_data^2 c_in^2,    c_out = sigma sigma_data c_in,    c_in = (sigma^2 + sigma_data^2)^(-1/2).

It is trained at levels that matter, ln sigma ~ N(P_mean, P_std^2), with the weight 1 / c_out^2 (eq. 8), which is to say that

    loss = E ||F - (x0 - c_skip x) / c_out||^2,

unweighted, a sum over pixels. Training images are augmented, and the network is told how (appendix F.2). Samples are made by
Heun's method on a grid that is even in sigma^(1/7) (algorithm 1), or with some noise added on the way (algorithm 2: the options
s_churn, s_min, s_max and s_noise of the sampler "heun").
"""

import math
from functools import partial
from typing import Any

import jax.numpy as jnp

from gm_jax import augment
from gm_jax.conditioning import classes_of
from gm_jax.core import Model
from gm_jax.denoising import Augmentation, denoising_model
from gm_jax.diffusion import losses
from gm_jax.diffusion.paths import edm_path
from gm_jax.diffusion.predictions import preconditioned
from gm_jax.nets.backbones import backbone
from gm_jax.settings import Count, Decay, Positive, Section, Share, checked


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    *,
    network: Section("network") = {"name": "song_unet"},  # noqa: B006 (read only)
    sigma_min: Positive = 0.002,
    sigma_max: Positive = 80.0,
    sigma_data: Positive = 0.5,
    P_mean: float = -1.2,
    P_std: Positive = 1.2,
    steps: Count = 18,
    augment_probability: Share = 0.12,
    class_conditional: bool = False,
    label_dropout: Decay = 0.0,
) -> Model:
    """EDM on images of `image_shape`, or on points; the defaults are the paper's CIFAR-10 model (configuration F).

    Args:
      network: see `nets.backbones`; by default told ln(sigma) / 4.
      sigma_min, sigma_max: the levels that sampling goes through; sigma_data: the standard deviation of the data.
      P_mean, P_std: of ln sigma in training.
      steps: of Heun's method by default, each but the last of which evaluates the network twice.
      augment_probability: with which each alteration of `augment.geometric` is made; 0 for none. Points are never altered.
      class_conditional, label_dropout: tell the network the label, but for this share of the batch (the paper: 0).

    Sampling options: `sampling.sampling_of`. Raises InputError for settings that do not fit.
    """
    path, classes = edm_path(sigma_min, sigma_max), classes_of(num_classes, class_conditional)
    geometric = partial(augment.geometric, probability=augment_probability)
    return denoising_model(
        "edm",
        image_shape,
        path,
        backbone(network, image_shape, dtype, num_classes=classes),
        preconditioned(sigma_data),
        losses.log_normal(path, P_mean, P_std),
        clock="log_sigma",
        weight=lambda c: math.prod(image_shape) * jnp.ones_like(c.sigma),
        num_classes=classes,
        label_dropout=label_dropout,
        augmentation=Augmentation(geometric, augment.LABELS) if augment_probability and len(image_shape) == 3 else None,
        sampling={"sampler": "heun", "steps": steps, "spacing": "karras"},
    )
