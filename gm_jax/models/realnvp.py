"""RealNVP: affine couplings, by masks and at several scales.

  Dinh et al. 2017, "Density estimation using real NVP"      arXiv:1605.08803

A coupling shifts and scales one part of x by what a network makes of the other (eq. 7 to 9),

  z_2 = (x_2 + t(x_1)) * exp(s(x_1))          log |det| = sum s(x_1)

A scale has three couplings by checkerboard masks, squeezes 2x2 patches into channels, has three couplings by halves of the
channels, and leaves half of the channels alone (section 3.6); the last has four checkerboards. Images come as
logit(alpha + (1 - 2 alpha) x), alpha = 0.05 (section 4.1, as in the authors' code).

What differs from the paper: actnorm (Kingma & Dhariwal 2018) after each coupling and normalisation in groups inside the
networks stand where it has batch norm, with which no image has a likelihood of its own in training; and there is no weight
normalisation.
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax.numpy as jnp

from gm_jax.bijectors import (
    Bijector,
    actnorm,
    chain,
    checkerboard,
    coupling,
    logit,
    masked_coupling,
    multiscale,
    reverse,
    squeeze,
)
from gm_jax.conditioning import classes_of
from gm_jax.core import Model
from gm_jax.errors import InputError
from gm_jax.flows import flow_model
from gm_jax.nets.couplings import conditioner, coupling_network, tanh_scale
from gm_jax.settings import Count, Section, above, at_least, checked

OF_CHANNELS, OF_POSITIONS, OF_POSITIONS_AT_LAST = 3, 3, 4  # couplings of a scale


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    *,
    network: Section("coupling_network") = {"name": "resnet"},  # noqa: B006 (read only)
    scales: Count = 2,
    couplings: Annotated[int, at_least(2)] = 8,
    alpha: Annotated[float, above(0)] = 0.05,
    class_conditional: bool = False,
) -> Model:
    """RealNVP of images of `image_shape`, or of points.

    network: of the couplings, see `nets.couplings`. scales, alpha: of images. couplings: of points, the two halves in turn.
    class_conditional: the networks are told the label.

    Likelihood, sampling option and latents: see `flows.flow_model`. Raises InputError for alpha of 0.5 or more, for images that
    cannot be halved between scales, for labels unless class_conditional, and for class_conditional without labels in the data.
    """
    if alpha >= 0.5:
        raise InputError(f"alpha={alpha} must be below 0.5")
    classes = classes_of(num_classes, class_conditional)
    net = coupling_network(network, image_shape, dtype)

    def conditioner_of(channels: int) -> Any:
        return conditioner(net(2 * channels), tanh_scale)

    if len(image_shape) == 1:
        flow = chain(_halves_in_turn(conditioner_of, image_shape[0], couplings))
    else:
        flow = chain({"logit": logit(alpha), "scales": _of_images(conditioner_of, image_shape, scales)})
    return flow_model("realnvp", flow, image_shape, classes)


def _halves_in_turn(conditioner_of: Callable, channels: int, n: int) -> dict[str, Bijector]:
    """n couplings that change one half of the channels and the other in turn, each followed by actnorm."""
    steps = {}
    for i in range(n):
        steps[f"coupling{i}"] = coupling(conditioner_of(channels - channels // 2))
        steps[f"norm{i}"] = actnorm()
        steps[f"reverse{i}"] = reverse()
    return steps


def _of_images(conditioner_of: Callable, image_shape: tuple[int, ...], scales: int) -> Bijector:
    height, width, channels = image_shape
    if height % 2 ** (scales - 1) or width % 2 ** (scales - 1):
        raise InputError(f"images of {height}x{width} cannot be halved {scales - 1} times; take fewer scales")
    found, shapes = [], []
    for i in range(scales):
        last = i == scales - 1
        steps = {}
        for k in range(OF_POSITIONS_AT_LAST if last else OF_POSITIONS):
            mask = checkerboard(height, width, odd=k % 2 == 1)
            steps[f"checkerboard{k}"] = masked_coupling(conditioner_of(channels), mask)
            steps[f"checkerboard_norm{k}"] = actnorm()
        if not last:
            height, width, channels = height // 2, width // 2, 4 * channels
            steps["squeeze"] = squeeze()
            steps |= _halves_in_turn(conditioner_of, channels, OF_CHANNELS)
        found.append(chain(steps))
        shapes.append((height, width, channels))
        channels //= 2
    return multiscale(found, shapes)
