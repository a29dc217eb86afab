"""The networks that a denoiser may have, by name, all called alike.

The keyword arguments of a function here are the fields of a section `network` of a config; what stands before them is what its
model says (`backbone`). `clock` names what the network is told of the time (`denoising.CLOCKS`); "auto" leaves that to the
model.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from gm_jax.core import Network
from gm_jax.errors import InputError, choose
from gm_jax.nets.dit import DiT
from gm_jax.nets.mlp import TimeMLP
from gm_jax.nets.refinenet import RefineNet
from gm_jax.nets.song_unet import SongUNet
from gm_jax.nets.transformer import check_patches, fitting_patch
from gm_jax.nets.unet import UNet, check_divisible, fitting_multipliers
from gm_jax.nets.uvit import UViT
from gm_jax.settings import Count, Decay, Whole, checked, even, odd

Channels = Annotated[int, even(4)]  # as many sines as cosines tell the time
Clock = Literal["auto", "index", "none", "time", "log_sigma", "time_999", "time_1000", "log_sigma_01"]

PAPER_MULTIPLIERS = (1, 2, 2, 2)  # of the CIFAR-10 networks of DDPM, NCSN and NCSNv2


@checked
def unet(
    image_shape: tuple[int, ...],
    dtype: jnp.dtype,
    out_channels: int | None = None,
    *,
    channels: Channels = 128,
    channel_multipliers: tuple[Count, ...] = (),
    num_res_blocks: Count = 2,
    attention_resolutions: tuple[Whole, ...] = (16,),
    num_heads: Count = 1,
    scale_shift: bool = False,
    variant: Literal["ddpm", "adm"] = "ddpm",
    dropout: Decay = 0.1,
    remat: bool = False,
    clock: Clock = "auto",
) -> Network:
    """The U-Net of DDPM (`nets.unet.UNet`); no multipliers: (1, 2, 2, 2), or as many of them as the image can be halved for.

    variant: in the constants of the code of DDPM or of ADM, whose weights can then be loaded.
    """
    _check_image("unet", image_shape)
    multipliers = channel_multipliers or fitting_multipliers(image_shape[:2], PAPER_MULTIPLIERS)
    check_divisible(image_shape[:2], multipliers)
    if channels % num_heads:
        raise InputError(f"num_heads={num_heads} do not divide {channels} channels; take a divisor")
    sizes = (out_channels or image_shape[-1], channels, multipliers, num_res_blocks, attention_resolutions, dropout)
    return of_module(UNet(*sizes, remat, num_heads, scale_shift, variant, dtype), clock)


@checked
def refinenet(
    image_shape: tuple[int, ...],
    dtype: jnp.dtype,
    num_levels: int | None = None,
    *,
    channels: Count = 128,
    channel_multipliers: tuple[Count, ...] = (),
    num_res_blocks: Count = 2,
    authors: bool = False,
    clock: Clock = "auto",
) -> Network:
    """The networks of NCSN and, without levels, NCSNv2 (`nets.refinenet.RefineNet`); no multipliers: (1, 2, 2, 2).

    authors: the very function of the authors' code, so that their weights can be loaded.
    """
    _check_image("refinenet", image_shape)
    multipliers = channel_multipliers or PAPER_MULTIPLIERS
    check_divisible(image_shape[:2], multipliers[:2])  # it halves the image once
    net = RefineNet(image_shape[-1], channels, multipliers, num_res_blocks, num_levels, authors, dtype)
    return of_module(net, clock)


@checked
def song_unet(
    image_shape: tuple[int, ...],
    dtype: jnp.dtype,
    num_classes: int | None = None,
    out_channels: int | None = None,
    *,
    channels: Channels = 128,
    channel_multipliers: tuple[Count, ...] = (),
    num_res_blocks: Count = 4,
    attention_resolutions: tuple[Whole, ...] = (16,),
    dropout: Decay = 0.13,
    embedding: Literal["positional", "fourier"] = "positional",
    encoder: Literal["standard", "residual"] = "standard",
    remat: bool = False,
    clock: Clock = "auto",
) -> Network:
    """DDPM++ or NCSN++ (`nets.song_unet.SongUNet`); no multipliers: (2, 2, 2), or as many as the image can be halved for.

    embedding, encoder: "positional" and "standard" make DDPM++, "fourier" and "residual" NCSN++.
    """
    _check_image("song_unet", image_shape)
    multipliers = channel_multipliers or fitting_multipliers(image_shape[:2], (2, 2, 2))
    check_divisible(image_shape[:2], multipliers)
    sizes = (out_channels or image_shape[-1], channels, multipliers, num_res_blocks, attention_resolutions, dropout)
    net = SongUNet(*sizes, embedding, encoder, num_classes or 0, remat, dtype)
    return of_module(net, clock)


@checked
def dit(
    image_shape: tuple[int, ...],
    dtype: jnp.dtype,
    num_classes: int | None = None,
    out_channels: int | None = None,
    *,
    channels: Channels = 384,
    depth: Count = 12,
    num_heads: Count = 6,
    patch_size: Whole = 0,
    dropout: Decay = 0.0,
    remat: bool = False,
    clock: Clock = "auto",
) -> Network:
    """The diffusion Transformer (`nets.dit.DiT`), by default DiT-S; patch_size 0: see `nets.transformer.fitting_patch`."""
    _check_transformer("dit", image_shape, channels, num_heads, patch_size)
    sizes = (out_channels or image_shape[-1], channels, depth, num_heads, patch_size or fitting_patch(image_shape[:2]))
    return of_module(DiT(*sizes, num_classes or 0, dropout, remat, dtype), clock)


@checked
def uvit(
    image_shape: tuple[int, ...],
    dtype: jnp.dtype,
    num_classes: int | None = None,
    out_channels: int | None = None,
    *,
    channels: Channels = 512,
    depth: Annotated[int, odd(1)] = 13,
    num_heads: Count = 8,
    patch_size: Whole = 0,
    dropout: Decay = 0.0,
    remat: bool = False,
    clock: Clock = "auto",
) -> Network:
    """U-ViT (`nets.uvit.UViT`), by default the small one; patch_size 0: see `nets.transformer.fitting_patch`."""
    _check_transformer("uvit", image_shape, channels, num_heads, patch_size)
    sizes = (out_channels or image_shape[-1], channels, depth, num_heads, patch_size or fitting_patch(image_shape[:2]))
    return of_module(UViT(*sizes, num_classes or 0, dropout, remat, dtype), clock)


@checked
def mlp(
    image_shape: tuple[int, ...],
    dtype: jnp.dtype,
    out_channels: int | None = None,
    *,
    channels: Channels = 128,
    depth: Count = 4,
    dropout: Decay = 0.0,
    clock: Clock = "auto",
) -> Network:
    """A residual perceptron for points (`nets.mlp.TimeMLP`)."""
    if len(image_shape) != 1:
        raise InputError(f"network mlp is for points, not for images of {'x'.join(map(str, image_shape))}; take unet")
    return of_module(TimeMLP(channels, depth, dropout, dtype, out_channels), clock)


BACKBONES = {"dit": dit, "mlp": mlp, "refinenet": refinenet, "song_unet": song_unet, "unet": unet, "uvit": uvit}


def find(name: str) -> Callable[..., Network]:
    """The function of that name. Raises InputError for an unknown one."""
    return choose(BACKBONES, name, "network")


def backbone(settings: Mapping[str, Any], image_shape: tuple[int, ...], dtype: Any = jnp.float32, **told: Any) -> Network:
    """The network that a section {"name": "unet", "channels": 128, ...} describes, for data of this shape.

    told: what the network's function takes of
      num_levels: how many noise levels its model tells it apart, by index; None: it is told any time, or none.
      num_classes: how many of the condition's entries are a one-hot label, the first ones; None: none of them.
      out_channels: how many numbers it answers for each pixel; None: as many as it sees.

    Raises InputError for an unknown name, for settings that it has not, and for images that it cannot halve.
    """
    given = dict(settings)
    function = find(given.pop("name"))
    taken = inspect.signature(function).parameters
    if told.get("out_channels") and "out_channels" not in taken:
        able = [name for name, other in BACKBONES.items() if "out_channels" in inspect.signature(other).parameters]
        raise InputError(f"network {settings['name']!r} answers as many numbers as it sees; take {' or '.join(able)}")
    try:
        return function(tuple(image_shape), dtype, **{name: told[name] for name in told if name in taken}, **given)
    except TypeError as error:
        raise InputError(f"network {settings['name']!r}: {str(error).rpartition('() ')[2]}") from error


def of_module(net: nn.Module, clock: str = "auto") -> Network:
    """A Flax module (x, t, condition, train) as pure functions."""

    def init(key, x, t, condition):
        return net.init(key, x, t, condition)["params"]

    def apply(params, x, t, condition, *, train=False, key=None):
        return net.apply({"params": params}, x, t, condition, train, rngs={} if key is None else {"dropout": key})

    return Network(init, apply, clock)


def _check_image(name: str, image_shape: tuple[int, ...]) -> None:
    if len(image_shape) != 3:
        raise InputError(f"network {name} is for images, not for points of {image_shape[0]} numbers; take mlp")


def _check_transformer(name: str, image_shape: tuple[int, ...], channels: int, num_heads: int, patch_size: int) -> None:
    _check_image(name, image_shape)
    check_patches(image_shape[:2], patch_size or fitting_patch(image_shape[:2]), channels, num_heads)
