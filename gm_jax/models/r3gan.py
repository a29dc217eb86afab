"""R3GAN: a game with a local guarantee, on residual networks without normalisation (Huang et al. 2024).

Generated and real images are compared in pairs (eq. 2; Jolicoeur-Martineau 2019), and the critic's slope is held down at both
kinds of data, R1 and R2 (eq. 3; Mescheder et al. 2018), at every update:

  critic      E[softplus(D(G(z)) - D(x))] + gamma/2 E[|grad D(x)|^2 + |grad D(G(z))|^2]
  generator   E[softplus(D(x) - D(G(z)))]

gamma falls along half a cosine, as do the learning rates (`optimizer.end_rate`), while b2 of Adam (`optimizer.end_b2`) and the
probability of augmentation grow. A slope is taken at the image before it is augmented.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.adversarial import PENALTIES, adversarial_loss
from gm_jax.conditioning import classes_of
from gm_jax.core import Model
from gm_jax.critic_augment import bgc_cutout
from gm_jax.game import Augmentation, Game, Regularizer, adversarial_model
from gm_jax.nets.players import of_plain_module
from gm_jax.nets.r3gan import Discriminator, Generator, num_stages
from gm_jax.settings import Count, NonNegative, Share, Whole, checked


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    *,
    latent_dim: Count = 64,
    channels: Count = 768,
    num_res_blocks: Count = 2,
    groups: Count = 96,
    expansion: Count = 2,
    class_features: Count = 64,
    remat: bool = False,
    gamma: NonNegative = 0.05,
    end_gamma: NonNegative = 0.005,
    augmentation: Share = 0.0,
    ramp_steps: Whole = 0,
    class_conditional: bool = False,
) -> Model:
    """R3GAN of square images with a side of 4, 8, 16, 32 ...; 20,732,160 and 20,683,776 parameters at 32x32x3.

    channels, num_res_blocks: width and blocks at every size from 4x4 on. groups, expansion: of the 3x3 convolutions.
    class_features: numbers that tell a generator its class. remat: recompute blocks in the backward pass. gamma: weight of both
    penalties, which falls to end_gamma over ramp_steps (0: it stays). augmentation: probability of each alteration of what the
    critic sees, which grows from 0 in the same steps. class_conditional: both players see the label.

    Raises InputError for values out of range, for images of another size, for groups that do not divide the channels, and for
    class_conditional without labels in the data.
    """
    classes = classes_of(num_classes, class_conditional)
    num_stages(image_shape if len(image_shape) == 3 else (*image_shape, 0, 0)[:3])
    sizes = {"channels": channels, "num_res_blocks": num_res_blocks, "groups": groups, "expansion": expansion}
    shared = {**sizes, "remat": remat, "dtype": dtype}
    generator = Generator(tuple(image_shape), classes, class_features=class_features, **shared)
    augment = Augmentation(
        bgc_cutout, lambda step: half_cosine(step, 0.0 if ramp_steps else augmentation, augmentation, ramp_steps)
    )
    game = Game(
        classes,
        of_plain_module(generator),
        of_plain_module(Discriminator(classes, **shared)),
        latent_dim,
        adversarial_loss("relativistic"),
        regularizer=Regularizer(PENALTIES["r1_r2"], lambda step: half_cosine(step, gamma, end_gamma, ramp_steps)),
        augmentation=augment if augmentation else None,
        paired=True,
    )
    return adversarial_model(game)


def half_cosine(step: Array, first: float, last: float, steps: int) -> Float[Array, ""] | float:
    """From `first` at step 0 to `last` at `steps` and after; `first` always, if `steps` is 0."""
    if not steps:
        return first
    return last + 0.5 * (first - last) * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0)))
