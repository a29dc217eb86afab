"""MAF: masked autoregressive flows, and the other way round IAF.

  MAF   Papamakarios et al. 2017, "Masked autoregressive flow for density estimation"                     arXiv:1705.07057
  IAF   Kingma et al. 2016, "Improving variational inference with inverse autoregressive flow"            arXiv:1606.04934

A layer of MAF takes x to z, of which each is Gaussian given those before it (eq. 4, 5):

  z_i = (x_i - mean_i) exp(-log_scale_i)        mean_i, log_scale_i = network(x_1 .. x_{i-1})        log |det| = -sum log_scale

One pass of a masked perceptron (MADE) gives all of them, so a likelihood costs a pass a layer; a sample is drawn number by
number. IAF is the same map taken the other way, x_i = (z_i - mean_i(z)) exp(-log_scale_i(z)): fast to sample, slow to evaluate.
The order of the numbers turns round after each layer. Images come as logit(alpha + (1 - 2 alpha) x) (appendix D).

Actnorm (Kingma & Dhariwal 2018) stands between the layers where the paper has batch norm (section 3.4).
"""

import math
from typing import Annotated, Literal

from gm_jax.bijectors import Bijector, actnorm, autoregressive, chain, flatten, inverted, logit, reverse
from gm_jax.conditioning import classes_of
from gm_jax.core import Model
from gm_jax.errors import InputError
from gm_jax.flows import flow_model
from gm_jax.nets.made import made
from gm_jax.settings import Count, above, checked


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    *,
    layers: Count = 10,
    hidden: tuple[Count, ...] = (1024, 1024),
    direction: Literal["maf", "iaf"] = "maf",
    alpha: Annotated[float, above(0)] = 0.05,
    class_conditional: bool = False,
) -> Model:
    """MAF of images of `image_shape`, or of points. By default MAF (10) of CIFAR-10, without the flips.

    layers: of the flow, each a MADE with hidden layers of the widths `hidden`. direction: "iaf" turns each layer round.
    alpha: of images. class_conditional: the networks are told the label.

    `nfe` counts the answers of the networks that follow from one another: one for each number, in IAF one. Likelihood,
    sampling option and latents: see `flows.flow_model`. Raises InputError for alpha of 0.5 or more, for no hidden layer, for
    labels unless class_conditional, and for class_conditional without labels in the data.
    """
    if alpha >= 0.5:
        raise InputError(f"alpha={alpha} must be below 0.5")
    if not hidden:
        raise InputError("hidden has no width; give one for each hidden layer, such as 512,512")
    classes, dims = classes_of(num_classes, class_conditional), math.prod(image_shape)
    flow = bijector(image_shape, layers, hidden, direction, alpha, classes or 0)
    return flow_model("maf", flow, image_shape, classes, nfe=dims if direction == "maf" else 1)


def bijector(
    image_shape: tuple[int, ...],
    layers: int,
    hidden: tuple[int, ...],
    direction: str = "maf",
    alpha: float = 0.05,
    condition_size: int = 0,
) -> Bijector:
    """From images in [0, 1], or points, to z [batch, dim]; the arguments are those of `make`."""
    steps: dict[str, Bijector] = {}
    if len(image_shape) == 3:
        steps |= {"logit": logit(alpha), "flatten": flatten(image_shape)}
    for i in range(layers):
        layer = autoregressive(made(math.prod(image_shape), hidden, condition_size))
        layer = layer if direction == "maf" else inverted(layer)
        steps |= {f"norm{i}": actnorm(), f"layer{i}": layer, f"reverse{i}": reverse()}
    return chain(steps)
