"""Glow: flows with invertible 1x1 convolutions.

  Kingma & Dhariwal 2018, "Glow: Generative flow with invertible 1x1 convolutions"      arXiv:1807.03039

A step of the flow is (section 3, table 1)

  actnorm         z = s * x + b                 s, b of each channel, such that the first batch has mean 0 and variance 1
  1x1             z = W x                       at each position, W = P L (U + diag(s))                           eq. 10, 11
  coupling        z_2 = (x_2 + t(x_1)) * s(x_1)             s = sigmoid(. + 2)

and a level squeezes 2x2 patches into channels, takes K steps and leaves half of the channels alone, z_2 ~ N(mean, std)(z_1).
What is left in the end has a mean and a standard deviation for each channel, learnt as well: of each class in a conditional
model, whose other parts are not told the label, as in the authors' code. Here z is in units of all these, so that z ~ N(0, I).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gm_jax.bijectors import (
    Bijector,
    Conditioner,
    actnorm,
    chain,
    coupling,
    gaussian,
    invertible_1x1,
    multiscale,
    shifted,
    squeeze,
    unconditional,
)
from gm_jax.conditioning import classes_of
from gm_jax.core import Model
from gm_jax.errors import InputError
from gm_jax.flows import flow_model
from gm_jax.nets.couplings import TopPrior, ZeroConv, conditioner, coupling_network, gaussian_scale, sigmoid_scale
from gm_jax.settings import Count, Section, checked


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    *,
    network: Section("coupling_network") = {"name": "conv"},  # noqa: B006 (read only)
    levels: Count = 3,
    steps: Count = 32,
    class_conditional: bool = False,
) -> Model:
    """Glow of images of `image_shape`, or of points; that of CIFAR-10 by default, of 44,520,660 parameters.

    network: of the couplings, see `nets.couplings`. levels, steps: L and K of the paper; points have one level without
    squeezing. class_conditional: the prior of the last latents is that of the class.

    Likelihood, sampling option and latents: see `flows.flow_model`. Raises InputError for images that cannot be halved once a
    level, for labels unless class_conditional, and for class_conditional without labels in the data.
    """
    classes = classes_of(num_classes, class_conditional)
    flow = bijector(image_shape, coupling_network(network, image_shape, dtype), levels, steps)
    return flow_model("glow", flow, image_shape, classes)


def bijector(image_shape: tuple[int, ...], net: Callable[[int], nn.Module], levels: int, steps: int) -> Bijector:
    """From images in [0, 1], or points, to z [batch, dim]. net: a network for a number of features (`coupling_network`).

    A condition [batch, size], if it is initialised with one, is told to the last prior.
    """
    if len(image_shape) == 1:
        [channels] = image_shape
        return chain(_steps(net, channels, steps, seed=0) | _top(channels))
    height, width, channels = image_shape
    if height % 2**levels or width % 2**levels:
        raise InputError(f"images of {height}x{width} cannot be halved {levels} times; take fewer levels")
    found, shapes, priors = [], [], []
    for i in range(levels):
        channels, last = channels * (2 if i else 4), i == levels - 1
        shapes.append((height >> (i + 1), width >> (i + 1), channels))
        parts = {"squeeze": squeeze()} | _steps(net, channels, steps, seed=1000 * i)
        found.append(chain(parts | (_top(channels) if last else {})))
        if not last:
            priors.append(gaussian(_given_the_rest(channels // 2)))
    return chain({"centre": shifted(-0.5), "levels": multiscale(found, shapes, priors)})


def _steps(net: Callable[[int], nn.Module], channels: int, n: int, seed: int) -> dict[str, Bijector]:
    found = {}
    for i in range(n):
        parts = {
            "actnorm": actnorm(),
            "mix": invertible_1x1(channels, seed=seed + i),
            "coupling": coupling(conditioner(net(2 * (channels - channels // 2)), sigmoid_scale)),
        }
        found[f"step{i}"] = unconditional(chain(parts))
    return found


def _top(channels: int) -> dict[str, Bijector]:
    return {"top": gaussian(conditioner(TopPrior(2 * channels), gaussian_scale))}


def _given_the_rest(channels: int) -> Conditioner:
    """The Gaussian of channels that are left alone, given the others."""
    prior = conditioner(ZeroConv(2 * channels), gaussian_scale)
    return Conditioner(lambda key, x, rest: prior.init(key, rest), lambda params, x, rest: prior.apply(params, rest))
