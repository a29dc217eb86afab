"""Encoders and decoders between data and a vector, by name, as pure functions that are all called alike.

The keyword arguments of a function here are the fields of a section `network` of an autoencoder's config.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.core import Key, PyTree
from gm_jax.errors import InputError, choose
from gm_jax.nets.mlp import MLP
from gm_jax.nets.resnet import Decoder, Encoder, default_multipliers, lowest_grid
from gm_jax.settings import Count, Whole, checked


class Autoencoder(NamedTuple):
    """An encoder and a decoder. Where there is a condition [batch, size] (a one-hot label), both see it: beside x, beside z."""

    init: Callable[..., PyTree]  # (key, x, condition=None) -> params, in the groups "encoder" and "decoder"
    encode: Callable[..., Array]  # (params, x, condition=None) -> [batch, features]
    decode: Callable[..., Array]  # (params, z, condition=None) -> x, unbounded


@checked
def resnet(
    image_shape: tuple[int, ...],
    dtype: jnp.dtype,
    latent_dim: int,
    features: int,
    *,
    channels: Count = 64,
    channel_multipliers: tuple[Count, ...] = (),
    num_blocks: Whole = 1,
) -> Autoencoder:
    """The residual networks of `nets.resnet`.

    channels, channel_multipliers, num_blocks: the width at the first halving, its multiple and the residual blocks at every
    halving; no multipliers: (1, 2, 4, 4, ...), halving as long as the image allows, down to 4x4.
    """
    if len(image_shape) != 3:
        raise InputError(f"network resnet is for images, not for points of {image_shape[0]} numbers; take mlp")
    multipliers = channel_multipliers or default_multipliers(image_shape)
    lowest_grid(image_shape, multipliers)
    return of_modules(
        Encoder(features, channels, multipliers, num_blocks, dtype),
        Decoder(tuple(image_shape), channels, multipliers, num_blocks, dtype),
        latent_dim,
    )


@checked
def mlp(
    image_shape: tuple[int, ...],
    dtype: jnp.dtype,
    latent_dim: int,
    features: int,
    *,
    width: Count = 128,
    depth: Count = 2,
    activation: Literal["swish", "tanh"] = "swish",
) -> Autoencoder:
    """Perceptrons with `depth` hidden layers of `width`, for points and for small images."""
    perceptron = partial(MLP, width=width, depth=depth, dtype=dtype, activation=getattr(nn, activation))

    class Flat(nn.Module):
        @nn.compact
        def __call__(self, z):
            return perceptron(math.prod(image_shape))(z).reshape(len(z), *image_shape)

    return of_modules(perceptron(features), Flat(), latent_dim)


AUTOENCODERS = {"mlp": mlp, "resnet": resnet}


def find(name: str) -> Callable[..., Autoencoder]:
    """The function of that name. Raises InputError for an unknown one."""
    return choose(AUTOENCODERS, name, "network")


def autoencoder(
    settings: Mapping[str, Any], image_shape: tuple[int, ...], latent_dim: int, features: int, dtype: Any = jnp.float32
) -> Autoencoder:
    """What a section {"name": "resnet", "channels": 64, ...} describes: `features` numbers from x, and x from `latent_dim`.

    Raises InputError for an unknown name, for settings that it has not, and for images that it cannot halve.
    """
    given = dict(settings)
    function = find(given.pop("name"))
    try:
        return function(tuple(image_shape), dtype, latent_dim, features, **given)
    except TypeError as error:
        raise InputError(f"network {settings['name']!r}: {str(error).rpartition('() ')[2]}") from error


def of_modules(encoder: nn.Module, decoder: nn.Module, latent_dim: int) -> Autoencoder:
    """Flax modules of x and of z [batch, latent_dim] as pure functions."""

    def init(key: Key, x: Array, condition: Array | None = None) -> PyTree:
        encoder_key, decoder_key = jax.random.split(key)
        condition = None if condition is None else condition[:1]
        z = beside(jnp.zeros((1, latent_dim)), condition)
        return {
            "encoder": encoder.init(encoder_key, beside(x[:1], condition))["params"],
            "decoder": decoder.init(decoder_key, z)["params"],
        }

    def encode(params: PyTree, x: Array, condition: Array | None = None) -> Array:
        return encoder.apply({"params": params["encoder"]}, beside(x, condition))

    def decode(params: PyTree, z: Array, condition: Array | None = None) -> Array:
        return decoder.apply({"params": params["decoder"]}, beside(z, condition))

    return Autoencoder(init, encode, decode)


def beside(x: Float[Array, "batch *shape"], condition: Float[Array, "batch size"] | None) -> Array:
    """`x` with the condition as further channels: the same everywhere in an image (Sohn et al. 2015, CVAE)."""
    if condition is None:
        return x
    spread = condition.reshape(len(x), *[1] * (x.ndim - 2), -1)
    return jnp.concatenate([x, jnp.broadcast_to(spread, (*x.shape[:-1], condition.shape[-1]))], axis=-1)
