"""Networks inside coupling layers, by name: from one part of x, how the other is shifted and scaled.

The keyword arguments of a function here are the fields of a section `network` of a flow's config. All answer zeros at first.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.bijectors import LOG_SCALE_FACTOR, Conditioner, actnorm_init
from gm_jax.core import Key, PyTree
from gm_jax.errors import InputError, choose
from gm_jax.nets.autoencoders import beside
from gm_jax.nets.layers import group_norm
from gm_jax.settings import Count, checked

zeros, ones = nn.initializers.zeros, nn.initializers.ones


class ActNorm(nn.Module):
    """(x + bias) exp(3 log_scale) in each channel, initialised on what comes first (`bijectors.actnorm`)."""

    @nn.compact
    def __call__(self, x: Float[Array, "batch *shape channel"]) -> Float[Array, "batch *shape channel"]:
        exact = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        bias = self.param("bias", lambda key: actnorm_init(exact)["bias"])
        log_scale = self.param("log_scale", lambda key: actnorm_init(exact)["log_scale"])
        return ((exact + bias) * jnp.exp(LOG_SCALE_FACTOR * log_scale)).astype(x.dtype)


def framed(x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height+2 width+2 channel+1"]:
    """Zeros around the image, and a channel that is 1 there and 0 inside, so that 3x3 kernels know the border (Glow's code)."""
    frame = np.pad(np.zeros(x.shape[1:3]), 1, constant_values=1)[None, :, :, None]
    frame = jnp.broadcast_to(jnp.asarray(frame, x.dtype), (len(x), *frame.shape[1:]))
    return jnp.concatenate([jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), frame], axis=-1)


class ZeroConv(nn.Module):
    """A 3x3 convolution that is zero at first, times exp(3 log_scale) in each channel (Kingma & Dhariwal 2018, section 3.3)."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width features"]:
        x = nn.Conv(self.features, (3, 3), padding="VALID", kernel_init=zeros, dtype=self.dtype, name="conv")(framed(x))
        log_scale = self.param("log_scale", zeros, (self.features,))
        return x * jnp.exp(LOG_SCALE_FACTOR * log_scale)


class GlowNet(nn.Module):
    """A 3x3, a 1x1 and a 3x3 convolution, the first two with ActNorm and ReLU (Kingma & Dhariwal 2018, section 3.3)."""

    features: int
    channels: int = 512
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width features"]:
        conv = partial(nn.Conv, self.channels, padding="VALID", use_bias=False, dtype=self.dtype)
        conv = partial(conv, kernel_init=nn.initializers.normal(0.05))
        x = nn.relu(ActNorm()(conv(kernel_size=(3, 3), name="first")(framed(x))))
        x = nn.relu(ActNorm()(conv(kernel_size=(1, 1), name="second")(x)))
        return ZeroConv(self.features, self.dtype, name="last")(x)


class ResidualNet(nn.Module):
    """Pre-activation residual blocks, all of whose outputs are summed for the last layer (Dinh et al. 2017, section 3.7).

    Normalised in groups, where the paper has batch norm: no image's likelihood then depends on another's.
    """

    features: int
    channels: int = 64
    num_blocks: int = 8
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width channel"]) -> Float[Array, "batch height width features"]:
        conv = partial(nn.Conv, self.channels, dtype=self.dtype)
        norm = partial(group_norm, self.channels, self.dtype, most=8)
        x = conv((3, 3), name="in")(x)
        total = conv((1, 1), name="skip_in")(x)
        for i in range(self.num_blocks):
            h = conv((3, 3), use_bias=False, name=f"block{i}_0")(nn.relu(norm(name=f"norm{i}_0")(x)))
            x = x + conv((3, 3), name=f"block{i}_1")(nn.relu(norm(name=f"norm{i}_1")(h)))
            total = total + conv((1, 1), name=f"skip{i}")(x)
        total = nn.relu(norm(name="norm_out")(total))
        return nn.Conv(self.features, (1, 1), kernel_init=zeros, dtype=self.dtype, name="out")(total)


class PointNet(nn.Module):
    """A perceptron with ReLU, for points."""

    features: int
    width: int = 128
    depth: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch channel"]) -> Float[Array, "batch features"]:
        for i in range(self.depth):
            x = nn.relu(nn.Dense(self.width, dtype=self.dtype, name=f"layer{i}")(x))
        return nn.Dense(self.features, kernel_init=zeros, dtype=self.dtype, name="out")(x)


class TopPrior(nn.Module):
    """The mean and log scale of the last latents: a border's, a channel's and a class's, the same at all positions inside."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch *shape channel"]) -> Float[Array, "batch *shape features"]:
        """`x` is zeros with the one-hot label, if any, as further channels (`beside`)."""
        labels = x[..., self.features // 2 :]
        h = self.param("bias", zeros, (self.features,)) if x.ndim == 2 else ZeroConv(self.features, name="border")(x[..., :0])
        if not labels.shape[-1]:
            return h
        of_label = nn.Dense(self.features, kernel_init=zeros, name="label")(labels)
        return h + of_label * jnp.exp(LOG_SCALE_FACTOR * self.param("log_scale", zeros, (self.features,)))


# --- by name ------------------------------------------------------------------------------------------------------------------


@checked
def conv(image_shape: tuple[int, ...], dtype: jnp.dtype, *, channels: Count = 512) -> Callable[[int], nn.Module]:
    """Glow's three convolutions, of so many channels."""
    _for_images("conv", image_shape)
    return lambda features: GlowNet(features, channels, dtype)


@checked
def resnet(
    image_shape: tuple[int, ...], dtype: jnp.dtype, *, channels: Count = 64, num_blocks: Count = 8
) -> Callable[[int], nn.Module]:
    """RealNVP's residual networks."""
    _for_images("resnet", image_shape)
    return lambda features: ResidualNet(features, channels, num_blocks, dtype)


@checked
def mlp(image_shape: tuple[int, ...], dtype: jnp.dtype, *, width: Count = 128, depth: Count = 2) -> Callable[[int], nn.Module]:
    """Perceptrons with `depth` hidden layers of `width`, for points."""
    if len(image_shape) != 1:
        raise InputError("network mlp of a flow is for points; for images take conv or resnet")
    return lambda features: PointNet(features, width, depth, dtype)


def _for_images(name: str, image_shape: tuple[int, ...]) -> None:
    if len(image_shape) != 3:
        raise InputError(f"network {name} is for images, not for points of {image_shape[0]} numbers; take mlp")


NETWORKS = {"conv": conv, "mlp": mlp, "resnet": resnet}


def find(name: str) -> Callable[..., Callable[[int], nn.Module]]:
    """The function of that name. Raises InputError for an unknown one."""
    return choose(NETWORKS, name, "network")


def coupling_network(
    settings: Mapping[str, Any], image_shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Callable[[int], nn.Module]:
    """What a section {"name": "conv", "channels": 512} describes, for any number of features.

    Raises InputError for an unknown name, for settings that it has not, and for a network of images where there are points.
    """
    given = dict(settings)
    function = find(given.pop("name"))
    try:
        return function(tuple(image_shape), dtype, **given)
    except TypeError as error:
        raise InputError(f"network {settings['name']!r}: {str(error).rpartition('() ')[2]}") from error


# --- from what a network answers to a shift and a scale -----------------------------------------------------------------------


def sigmoid_scale(module: nn.Module, raw: Array) -> tuple[Array, Array]:
    """exp(log_scale) = sigmoid(raw + 2) < 1: Glow's."""
    return raw[..., 0::2], jax.nn.log_sigmoid(raw[..., 1::2] + 2)


def tanh_scale(module: nn.Module, raw: Array) -> tuple[Array, Array]:
    """log_scale = scale tanh(raw), with a scale that is learnt: RealNVP's."""
    shift, log_scale = raw[..., 0::2], raw[..., 1::2]
    return shift, module.param("scale", ones, log_scale.shape[-1:]) * jnp.tanh(log_scale)


def gaussian_scale(module: nn.Module, raw: Array) -> tuple[Array, Array]:
    """shift = -mean and log_scale = -log std: of a Gaussian, as in Glow's priors."""
    return -raw[..., 0::2], -raw[..., 1::2]


class ShiftAndScale(nn.Module):
    """A network that answers 2 * features numbers, read by a rule as a shift and a log scale."""

    net: nn.Module
    rule: Callable[[nn.Module, Array], tuple[Array, Array]]

    @nn.compact
    def __call__(self, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        return self.rule(self, self.net(beside(x, condition)).astype(x.dtype))


def conditioner(net: nn.Module, rule: Callable[[nn.Module, Array], tuple[Array, Array]]) -> Conditioner:
    """The network, told the condition beside x, as pure functions."""
    module = ShiftAndScale(net, rule)

    def init(key: Key, x: Array, condition: Array | None = None) -> PyTree:
        return module.init(key, x, condition)["params"]

    def apply(params: PyTree, x: Array, condition: Array | None = None) -> tuple[Array, Array]:
        return module.apply({"params": params}, x, condition)

    return Conditioner(init, apply)
