"""Generative adversarial networks: one game, and the choices that tell the papers apart.

  GAN          Goodfellow et al. 2014                     losses "minimax", "non_saturating"; `n_critic` updates of the critic
  conditional  Mirza & Osindero 2014                      class_conditional, conditioning "concatenation"
  DCGAN        Radford et al. 2016                        network "dcgan", BatchNorm in the critic, too
  LSGAN        Mao et al. 2017                            loss "least_squares"
  WGAN         Arjovsky et al. 2017                       loss "wasserstein", `optimizer.critic.weight_clip`
  WGAN-GP      Gulrajani et al. 2017                      loss "wasserstein", penalty "gradient_penalty"
  TTUR         Heusel et al. 2017                         a learning rate for each player, under `optimizer`
  SN-GAN       Miyato et al. 2018; Miyato & Koyama 2018   loss "hinge", critic_norm "spectral", conditioning "projection"
  BigGAN       Brock et al. 2019                          generator_spectral, wider networks
  relativistic Jolicoeur-Martineau 2019                   loss "relativistic"

A generator G makes images of z ~ N(0, I), a critic D scores them, and both minimise what `gm_jax.adversarial` has. Networks
stand in `nets.players`, what all such models share in `gm_jax.game`.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from gm_jax import critic_augment
from gm_jax.adversarial import PENALTIES, adversarial_loss
from gm_jax.conditioning import classes_of
from gm_jax.core import Images, Key, Model
from gm_jax.errors import InputError
from gm_jax.game import Augmentation, Game, Regularizer, adversarial_model
from gm_jax.nets.players import Setting, players
from gm_jax.settings import Count, NonNegative, Positive, Section, checked

LEVEL = 2 / 255  # the distance of two neighbouring levels of images in [-1, 1]


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    *,
    network: Section("players") = {"name": "resnet"},  # noqa: B006 (read only)
    latent_dim: Count = 128,
    loss: Literal["minimax", "non_saturating", "least_squares", "hinge", "wasserstein", "relativistic"] = "hinge",
    real_target: Positive = 1.0,
    penalty: Literal["none", "gradient_penalty", "r1", "r1_r2"] = "none",
    penalty_weight: NonNegative = 1.0,
    penalty_every: Count = 1,
    critic_norm: Literal["none", "batch", "layer", "spectral"] = "spectral",
    generator_spectral: bool = False,
    n_critic: Count = 5,
    generator_batch: Count = 2,
    dequantize: bool = False,
    augmentation: tuple[Literal["bgc", "color", "translation", "cutout"], ...] = (),
    ada_images: Count = 500_000,
    class_conditional: bool = False,
    conditioning: Literal["projection", "concatenation"] = "projection",
) -> Model:
    """The GAN of images of `image_shape`, or of points; SN-GAN by default, 4,276,739 and 1,053,825 parameters at 32x32x3.

    network: both players, see `nets.players`. latent_dim: size of z. loss: of both players. real_target: below 1, one-sided
    label smoothing. penalty: on the critic's gradient, with its weight (lambda, or gamma of R1), due at every so many steps.
    critic_norm: normalisation between the critic's layers. generator_spectral: spectral norm of the generator's layers, too.
    n_critic: updates of the critic for one of the generator. generator_batch: samples in an update of the generator, in
    batches. dequantize: uniform noise of one level on real images. augmentation: of all that the critic sees, those of
    DiffAugment or "bgc", ADA, which takes ada_images images from nothing to everything. conditioning: how players of a
    class_conditional model see the label.

    Raises InputError for values out of range or that do not go together, and for class_conditional without labels in the data.
    """
    classes = classes_of(num_classes, class_conditional)
    if penalty != "none" and critic_norm == "batch":
        raise InputError(f"penalty={penalty} asks for a slope at each image, which BatchNorm has not; take critic_norm=layer")
    paired = loss == "relativistic"
    if paired and generator_batch != 1:
        raise InputError("loss=relativistic compares pairs of real and generated images; set generator_batch=1")
    setting = Setting(tuple(image_shape), latent_dim, classes, conditioning, critic_norm, generator_spectral, axis_name, dtype)
    generator, critic = players(network, setting)
    game = Game(
        classes,
        generator,
        critic,
        latent_dim,
        adversarial_loss(loss, real_target),
        regularizer=None if penalty == "none" else Regularizer(PENALTIES[penalty], lambda step: penalty_weight, penalty_every),
        augmentation=augmentation_of(augmentation, ada_images),
        n_critic=n_critic,
        generator_batch=generator_batch,
        paired=paired,
        axis_name=axis_name,
    )
    return adversarial_model(game._replace(prepare=dequantized) if dequantize else game)


def augmentation_of(names: tuple[str, ...], ada_images: int) -> Augmentation | None:
    """Raises InputError for "bgc" beside others."""
    if not names:
        return None
    if "bgc" in names:
        if len(names) > 1:
            raise InputError(f"augmentation={','.join(names)}: bgc stands alone; leave it or the others out")
        return Augmentation(critic_augment.bgc, images_to_full=ada_images)
    return Augmentation(lambda keys, x, p: critic_augment.diff_augment(keys, x, names))


def dequantized(keys: Key, x: Images) -> Images:
    """Images with uniform noise as wide as a level, so that no critic tells real ones by their levels."""
    return x + LEVEL * (jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys) - 0.5)
