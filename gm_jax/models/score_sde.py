"""Score-based generative modelling through stochastic differential equations (Song et al. 2021, https://arxiv.org/abs/2011.13456).

An SDE dx = f(t) x dt + g(t) dw turns data at t = 0 into noise at t = 1, so that x_t = alpha(t) x0 + sigma(t) eps:

    VE      f = 0,             g^2 = d sigma^2 / dt,                    sigma = sigma_min (sigma_max / sigma_min)^t
    VP      f = -beta / 2,     g^2 = beta,                              sigma^2 = 1 - alpha^2
    sub-VP  f = -beta / 2,     g^2 = beta (1 - exp(-2 int beta)),       sigma = 1 - alpha^2

with beta linear in t (appendices B and C). A network learns the score of x_t (eq. 7), with t uniform and weighted by sigma^2:

    loss = E |sigma s(x_t, t) + eps|^2,

or, for the likelihood, by g^2. What it answers is sigma times the score: minus eps. The SDE is then run backwards,

    dx = (f x - g^2 s(x, t)) dt + g dw,                                                                                  (eq. 6)

by Euler and Maruyama, or by predictor and corrector (algorithms 2-5); or the ODE with the same marginals (eq. 13), which gives
latents and likelihoods (`diffusion.ode`). Pixels are in [-1, 1]: sigmas of VE are twice the paper's, 0.01 to 50 in [0, 1].
"""

import math
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array

from gm_jax.conditioning import classes_of
from gm_jax.core import Model
from gm_jax.denoising import denoising_model
from gm_jax.diffusion import losses
from gm_jax.diffusion.paths import Coefficients, Path, sub_vp_path, ve_path, vp_path
from gm_jax.nets.backbones import backbone
from gm_jax.settings import Count, Decay, Positive, Section, checked

PAPER_NETWORK = {"name": "song_unet", "channel_multipliers": (1, 2, 2, 2), "dropout": 0.1}
CLOCKS = {"ve": "log_sigma_01", "vp": "time_999", "sub_vp": "time_999"}
PREDICTIONS = {"ve": "scaled_score", "vp": "eps", "sub_vp": "eps"}  # as the authors' networks answer
SAMPLERS = {"ve": "predictor_corrector", "vp": "euler_maruyama", "sub_vp": "euler_maruyama"}


def sde_path(sde: str, beta_min: float, beta_max: float, sigma_min: float, sigma_max: float) -> Path:
    """The path of the SDE "ve", "vp" or "sub_vp"."""
    if sde == "ve":
        return ve_path(sigma_min, sigma_max)
    return {"vp": vp_path, "sub_vp": sub_vp_path}[sde](beta_min, beta_max)


def likelihood_weight(c: Coefficients) -> Array:
    """g^2 / sigma^2: what weighs the error in eps where g^2 weighs that in the score (Song et al. 2021b, theorem 1)."""
    return 2 * (c.d_sigma / c.sigma - c.d_alpha / c.alpha)


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    *,
    network: Section("network") = PAPER_NETWORK,
    sde: Literal["ve", "vp", "sub_vp"] = "vp",
    beta_min: Positive = 0.1,
    beta_max: Positive = 20.0,
    sigma_min: Positive = 0.02,
    sigma_max: Positive = 100.0,
    likelihood_weighting: bool = False,
    steps: Count = 1000,
    class_conditional: bool = False,
    label_dropout: Decay = 0.1,
) -> Model:
    """A score SDE on images of `image_shape`, or on points; the defaults are the paper's CIFAR-10 model DDPM++ (VP).

    Args:
      network: see `nets.backbones`; by default told 999 t, or ln sigma of pixels in [0, 1] (VE).
      sde: which one; beta_min, beta_max: of VP and sub-VP; sigma_min, sigma_max: of VE.
      likelihood_weighting: weigh the error of the score by g^2 instead of sigma^2.
      steps: of Euler and Maruyama (VP, sub-VP), or of predictor and corrector (VE), by default.
      class_conditional, label_dropout: tell the network the label, but for this share of the batch (Ho & Salimans 2022).

    Sampling options: `sampling.sampling_of`. Raises InputError for settings that do not fit.
    """
    path, classes = sde_path(sde, beta_min, beta_max, sigma_min, sigma_max), classes_of(num_classes, class_conditional)
    scale = math.prod(image_shape) / 2 if sde == "ve" else 1.0  # the authors' loss: half the sum over pixels (VE), or the mean

    def weight(c: Coefficients) -> Array:
        return scale * (likelihood_weight(c) if likelihood_weighting else jnp.ones_like(c.sigma))

    return denoising_model(
        "score_sde",
        image_shape,
        path,
        backbone(network, image_shape, dtype, num_classes=classes),
        PREDICTIONS[sde],
        losses.uniform(path),
        clock=CLOCKS[sde],
        term="score",
        weight=weight,
        num_classes=classes,
        label_dropout=label_dropout,
        sampling={"sampler": SAMPLERS[sde], "steps": steps, "spacing": "uniform"},
    )
