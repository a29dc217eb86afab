"""StyleGAN2 with adaptive discriminator augmentation (Karras et al. 2020).

  style-based generator   Karras et al. 2019, https://arxiv.org/abs/1812.04948   mapping z -> w, styles, mixing, truncation
  StyleGAN2               Karras et al. 2020, https://arxiv.org/abs/1912.04958   demodulation, lazy regularisation
  ADA                     Karras et al. 2020, https://arxiv.org/abs/2006.06676   augmentation that follows overfitting

The losses are the non-saturating ones, with R1 on the critic at every 16th update (appendix B of the second). A sample is

  x = synthesis(w_mean + truncation (mapping(z, label) - w_mean), noise)

with w_mean the running mean of w in training. The path length penalty is left out, as in the authors' settings for CIFAR-10.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax import critic_augment, game
from gm_jax.adversarial import PENALTIES, adversarial_loss
from gm_jax.conditioning import check_labels, classes_of
from gm_jax.core import Images, Key, Labels, Latent, Model, Player, Variables, batch_mean, streams
from gm_jax.game import Augmentation, Game, Regularizer, adversarial_model
from gm_jax.nets.players import of_plain_module
from gm_jax.nets.stylegan2 import Discriminator, Mapping, Synthesis, num_layers
from gm_jax.settings import Count, NonNegative, Share, Whole, checked

MEAN_DECAY = 0.995  # of the running mean of w, an update


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    *,
    latent_dim: Count = 512,
    channels: Count = 512,
    mapping_layers: Count = 2,
    style: Literal["demodulation", "adain"] = "demodulation",
    style_mixing: Share = 0.0,
    gamma: NonNegative = 0.01,
    r1_every: Count = 16,
    augmentation: Literal["none", "bgc"] = "bgc",
    ada_target: Share = 0.6,
    ada_images: Count = 500_000,
    ada_interval: Whole = 4,
    class_conditional: bool = False,
) -> Model:
    """StyleGAN2-ADA of square images with a side of 4, 8, 16 ...; 19,947,539 and 20,720,641 parameters at 32x32x3.

    latent_dim: size of z; w and all layers have `channels`. mapping_layers: from z to w. style: how w acts on a layer.
    style_mixing: share of generated images in training whose fine layers have another w. gamma: weight of R1, due at every
    r1_every-th update. augmentation: of all that the critic sees; ada_target, ada_images, ada_interval: how its probability
    follows the critic (`game.Augmentation`). class_conditional: both players see the label.

    `sample` takes `truncation`, 1 for none. Latents: z, and w [n, layer, channels], whose layers can be mixed.

    Raises InputError for values out of range, images of another size, and class_conditional without labels in the data.
    """
    classes = classes_of(num_classes, class_conditional)
    num_layers(image_shape if len(image_shape) == 3 else (*image_shape, 0, 0)[:3])
    mapping = Mapping(channels, mapping_layers, classes)
    synthesis = Synthesis(tuple(image_shape), channels, style, dtype)
    adaptive = Augmentation(critic_augment.bgc, images_to_full=ada_images, target=ada_target, interval=max(ada_interval, 1))
    rules = Game(
        classes,
        generator_player(mapping, synthesis, style_mixing, axis_name),
        of_plain_module(Discriminator(channels, classes, axis_name, dtype)),
        latent_dim,
        adversarial_loss("non_saturating"),
        regularizer=Regularizer(PENALTIES["r1"], lambda step: gamma, r1_every) if gamma else None,
        augmentation=adaptive if augmentation == "bgc" else None,
        axis_name=axis_name,
    )
    model = adversarial_model(rules)
    w = Latent(
        "w",
        partial(draw_w, rules, mapping, num_layers(image_shape)),
        partial(decode_w, rules, synthesis),
        game.lerp,
        layers=True,
    )
    return model._replace(sample=partial(sample, rules, mapping, synthesis), nfe=nfe, latents=(*model.latents, w))


# --- the generator ------------------------------------------------------------------------------------------------------------


def generator_player(mapping: Mapping, synthesis: Synthesis, style_mixing: float, axis_name: str | None) -> Player:
    """Both networks as one player, whose state is the mean of w."""
    layers = num_layers(synthesis.image_shape)

    def init(key: Key, z: Array, labels: Labels | None) -> Variables:
        mapping_key, synthesis_key = streams(key, "mapping", "synthesis")
        ws = jnp.zeros((len(z), layers, mapping.channels))
        params = {
            "mapping": mapping.init(mapping_key, z, labels)["params"],
            "synthesis": synthesis.init(synthesis_key, ws, jax.random.split(key, len(z)))["params"],
        }
        return Variables(params, {"w_mean": jnp.zeros(mapping.channels)})

    def apply(variables, z, labels, *, train, keys=None):
        params, state = variables
        w = mapping.apply({"params": params["mapping"]}, z, labels)
        ws = broadcast(w, layers)
        if train:
            mean = batch_mean(jax.lax.stop_gradient(w), axis_name)
            state = {"w_mean": mean + MEAN_DECAY * (state["w_mean"] - mean)}
            if style_mixing:
                other = normal_like(streams(keys, "other z")[0], z)
                other = mapping.apply({"params": params["mapping"]}, other, labels)
                ws = mixed(ws, broadcast(other, layers), streams(keys, "mixing")[0], style_mixing)
        return synthesis.apply({"params": params["synthesis"]}, ws, keys), state

    return Player(init, apply)


def broadcast(w: Float[Array, "batch size"], layers: int) -> Float[Array, "batch layer size"]:
    """The same w for every layer."""
    return jnp.repeat(w[:, None], layers, axis=1)


def mixed(
    ws: Float[Array, "batch layer size"], others: Float[Array, "batch layer size"], keys: Key, share: float
) -> Float[Array, "batch layer size"]:
    """With probability `share` the layers from a random one on are those of another (Karras et al. 2019, section 3.1)."""

    def one(key, w, other):
        switch, place = streams(key, "switch", "place")
        first = jax.random.randint(place, (), 1, len(w))
        first = jnp.where(jax.random.bernoulli(switch, share), first, len(w))
        return jnp.where((jnp.arange(len(w)) < first)[:, None], w, other)

    return jax.vmap(one)(keys, ws, others)


def truncate(w: Float[Array, "*batch size"], mean: Float[Array, " size"], truncation: float) -> Float[Array, "*batch size"]:
    """mean + truncation (w - mean) (Karras et al. 2019, appendix B)."""
    return mean + truncation * (w - mean)


def normal_like(keys: Key, z: Float[Array, "batch size"]) -> Float[Array, "batch size"]:
    """Latents of the same size, one a key."""
    return game.normal(keys, z.shape[1])


# --- sampling -----------------------------------------------------------------------------------------------------------------


def sample(
    rules: Game,
    mapping: Mapping,
    synthesis: Synthesis,
    variables: Variables,
    keys: Key,
    labels: Labels | None = None,
    *,
    truncation: float | None = None,
) -> Images:
    """One sample a key, with noise of its own."""
    nfe(truncation=truncation)
    ws = draw_w(rules, mapping, num_layers(synthesis.image_shape), variables, keys, labels)
    if truncation is not None:
        ws = truncate(ws, variables.state["generator"]["w_mean"], truncation)
    return decode_w(rules, synthesis, variables, keys, ws, labels)


def nfe(*, truncation: float | None = None) -> int:
    """One evaluation of the generator."""
    game.check_truncation(truncation)
    return 1


def draw_w(
    rules: Game, mapping: Mapping, layers: int, variables: Variables, keys: Key, labels: Labels | None = None
) -> Float[Array, "batch layer size"]:
    """The w of `sample`, the same for every layer."""
    check_labels(labels, rules.num_classes)
    w = mapping.apply({"params": variables.params["generator"]["mapping"]}, *game.draw(rules, keys, labels))
    return broadcast(w, layers)


def decode_w(
    rules: Game,
    synthesis: Synthesis,
    variables: Variables,
    keys: Key,
    ws: Float[Array, "batch layer size"],
    labels: Labels | None = None,
) -> Images:
    """The images of w, with noise of each key's own. Of the label w tells already."""
    check_labels(labels, rules.num_classes)
    noise = streams(keys, "generator's noise")[0]
    return synthesis.apply({"params": variables.params["generator"]["synthesis"]}, ws, noise)
