"""Pairs of a generator and a critic, by name, as `core.Player`s that are all called alike.

The keyword arguments of a function here are the fields of a section `network` of a GAN's config; what stands before them is
what its model says (`players`).
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array

from gm_jax.core import Key, Labels, Player, PyTree, Variables
from gm_jax.errors import InputError, choose
from gm_jax.nets import gan_nets, spectral
from gm_jax.nets.autoencoders import beside
from gm_jax.settings import Count, Whole, checked

NORMS = ("none", "batch", "layer", "spectral")  # of a critic


class Setting(NamedTuple):
    """What a model says of its players, whatever their networks are."""

    image_shape: tuple[int, ...]
    latent_dim: int
    num_classes: int | None
    conditioning: str  # "projection" or "concatenation"
    critic_norm: str  # one of NORMS
    generator_spectral: bool
    axis_name: str | None
    dtype: Any

    @property
    def inner_classes(self) -> int | None:
        """The classes that the networks themselves know of."""
        return self.num_classes if self.conditioning == "projection" else None


@checked
def mlp(setting: Setting, *, width: Count = 128, depth: Count = 3) -> tuple[Player, Player]:
    """Perceptrons of `depth` hidden layers of `width`, for points and small images. Its generator is told labels beside z."""
    generator = lambda momentum: gan_nets.MLPGenerator(setting.image_shape, width, depth, setting.dtype)  # noqa: E731
    critic = gan_nets.MLPCritic(width, depth, setting.inner_classes, _norm(setting), setting.dtype)
    return _generator(generator, setting._replace(conditioning="concatenation")), _critic(critic, setting)


@checked
def dcgan(
    setting: Setting, *, generator_channels: Count = 64, critic_channels: Count = 64, doublings: Whole = 3
) -> tuple[Player, Player]:
    """DCGAN in the sizes of Miyato et al. 2018, table 3. `doublings` of the size; widths at full size, doubled with each."""
    _check_image("dcgan", setting.image_shape, doublings)
    generator = partial(
        gan_nets.DCGANGenerator,
        setting.image_shape,
        generator_channels,
        doublings,
        setting.inner_classes,
        setting.axis_name,
        setting.dtype,
    )
    critic = gan_nets.DCGANCritic(critic_channels, doublings, setting.inner_classes, _norm(setting), setting.dtype)
    return _generator(generator, setting), _critic(critic, setting)


@checked
def resnet(
    setting: Setting,
    *,
    generator_channels: Count = 256,
    generator_blocks: Whole = 3,
    critic_channels: Count = 128,
    critic_blocks: Count = 4,
    critic_halvings: Whole = 2,
    pool: Literal["sum", "mean"] = "sum",
) -> tuple[Player, Player]:
    """The residual networks of SN-GAN for CIFAR-10; 128 channels in both and the mean: WGAN-GP's; 256 in both: BigGAN's.

    generator_blocks: each doubles the size. critic_halvings: as many of its blocks, the first ones, halve it.
    """
    _check_image("resnet", setting.image_shape, max(generator_blocks, critic_halvings))
    if critic_halvings > critic_blocks:
        raise InputError(f"critic_halvings={critic_halvings} needs as many blocks, and critic_blocks is {critic_blocks}")
    generator = partial(
        gan_nets.ResNetGenerator,
        setting.image_shape,
        generator_channels,
        generator_blocks,
        setting.inner_classes,
        setting.axis_name,
        setting.dtype,
    )
    sizes = (critic_channels, critic_blocks, critic_halvings, pool)
    critic = gan_nets.ResNetCritic(*sizes, setting.inner_classes, _norm(setting), setting.dtype)
    return _generator(generator, setting), _critic(critic, setting)


PLAYERS = {"dcgan": dcgan, "mlp": mlp, "resnet": resnet}


def find(name: str) -> Callable[..., tuple[Player, Player]]:
    """The function of that name. Raises InputError for an unknown one."""
    return choose(PLAYERS, name, "network")


def players(settings: Mapping[str, Any], setting: Setting) -> tuple[Player, Player]:
    """The generator and the critic that a section {"name": "resnet", "critic_channels": 128, ...} describes.

    Raises InputError for an unknown name, for settings that it has not, and for images whose size it cannot double.
    """
    given = dict(settings)
    function = find(given.pop("name"))
    try:
        return function(setting, **given)
    except TypeError as error:
        raise InputError(f"network {settings['name']!r}: {str(error).rpartition('() ')[2]}") from error


# --- Flax modules as players --------------------------------------------------------------------------------------------------


def of_module(
    module: Callable[..., nn.Module],
    see: Callable[[Array, Labels | None], tuple[Array, Labels | None]],
    normalized: tuple[str, ...] = (),
) -> Player:
    """A player of `module(momentum=...)`, whose state is BatchNorm's statistics and the vectors of its spectral norms.

    `see`: what the network is given of (inputs, labels). `normalized`: the names of the parameters under spectral norm.
    """

    def init(key: Key, inputs: Array, labels: Labels | None) -> Variables:
        found = dict(module(momentum=0.9).init(key, *see(inputs, labels), True))
        params, statistics = found["params"], found.get("batch_stats", {})
        return Variables(params, {"statistics": statistics, "vectors": spectral.init_vectors(params, normalized)})

    def apply(variables, inputs, labels, *, train, keys=None, momentum=0.9):
        del keys  # for noise, which these networks have none of
        params, state = variables
        both = {"params": spectral.normalize(params, state["vectors"]), "batch_stats": state["statistics"]}
        network = partial(module(momentum=momentum).apply, both, *see(inputs, labels), train)
        if not train:
            return network(), state
        output, new = network(mutable=["batch_stats"])
        return output, {**state, "statistics": new.get("batch_stats", state["statistics"])}

    def after(params: PyTree, state: PyTree) -> PyTree:
        return {**state, "vectors": spectral.iterate(params, state["vectors"])}

    def recalibrate(variables: Variables, inputs: Array, labels: Labels | None) -> PyTree:
        params, state = variables
        state = {**state, "vectors": spectral.iterate(params, state["vectors"], spectral.SETTLED)}
        return apply(Variables(params, state), inputs, labels, train=True, momentum=0.0)[1]

    return Player(init, apply, after if normalized else None, recalibrate)


def of_plain_module(module: nn.Module) -> Player:
    """A player of a module of (inputs, labels) that has parameters only."""

    def init(key: Key, inputs: Array, labels: Labels | None) -> Variables:
        return Variables(module.init(key, inputs, labels)["params"], {})

    def apply(variables, inputs, labels, *, train, keys=None):
        del train, keys
        return module.apply({"params": variables.params}, inputs, labels), variables.state

    return Player(init, apply)


def _generator(module, setting):
    normalized = ("kernel",) if setting.generator_spectral else ()
    return of_module(module, _see(setting), normalized)


def _critic(module, setting):
    normalized = ("kernel", "embedding") if setting.critic_norm == "spectral" else ()
    return of_module(lambda momentum: module, _see(setting), normalized)


def _see(setting):
    if setting.num_classes is None or setting.conditioning == "projection":
        return lambda inputs, labels: (inputs, labels)
    return lambda inputs, labels: (beside(inputs, jax.nn.one_hot(labels, setting.num_classes)), None)


def _norm(setting):
    if setting.critic_norm in ("none", "spectral"):
        return None
    if setting.critic_norm == "batch":
        norm = partial(gan_nets.BatchNorm, None, setting.axis_name, setting.dtype)
        return lambda name: lambda h, train: norm(name=name)(h, None, train)

    def layer(name):
        def call(h, train):
            return nn.LayerNorm(reduction_axes=tuple(range(1, h.ndim)), feature_axes=-1, dtype=setting.dtype, name=name)(h)

        return call

    return layer


def _check_image(name: str, image_shape: tuple[int, ...], doublings: int) -> None:
    if len(image_shape) != 3:
        raise InputError(f"network {name} is for images, not for points of {image_shape[0]} numbers; take mlp")
    if any(side % 2**doublings for side in image_shape[:2]):
        height, width, _ = image_shape
        raise InputError(f"{height}x{width} images cannot be halved {doublings} times; lower that number, or resize the images")
