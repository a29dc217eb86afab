"""Where the tensors of StyleGAN2-ADA's networks lie in ours: both players, and the mean of w."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from gm_jax.core import Variables
from gm_jax.errors import InputError
from gm_jax.pretrained.filling import Leaf, fill
from gm_jax.pretrained.formats import Tensors
from gm_jax.training.learning import TrainState

BUFFERS = ("resample_filter", "noise_const")  # fixed, or noise that is drawn anew here


def settings_of(tensors: Tensors) -> tuple[dict[str, Any], tuple[int, int, int], int | None]:
    """(fields of the model, image shape, number of classes). Raises InputError for networks that ours cannot be."""
    try:
        channels = tensors["generator.synthesis.b4.const"].shape[0]
        layers = [name for name in tensors if re.fullmatch(r"generator\.mapping\.fc\d+\.weight", name)]
        side = max(int(match[1]) for match in (re.match(r"generator\.synthesis\.b(\d+)\.", name) for name in tensors) if match)
        classes = tensors["generator.mapping.embed.weight"].shape[1] if "generator.mapping.embed.weight" in tensors else None
        width, inputs = tensors["generator.mapping.fc0.weight"].shape
        colors = tensors[f"generator.synthesis.b{side}.torgb.weight"].shape[0]
    except (KeyError, ValueError, IndexError) as error:
        raise InputError(f"this is no generator of StyleGAN2-ADA: {error} is missing") from error
    if width != channels or f"critic.b{side}.skip.weight" in tensors:
        raise InputError(
            "only StyleGAN2 in the form of its configuration for CIFAR-10 can be imported: as many channels at every size as w "
            "has, and a discriminator without skips"
        )
    latent_dim = inputs - (width if classes else 0)
    fields = {"channels": channels, "latent_dim": latent_dim, "mapping_layers": len(layers), "class_conditional": bool(classes)}
    return fields, (side, side, colors), classes


def variables(tensors: Tensors, side: int, abstract: TrainState) -> Variables:
    """Our parameters and the mean of w; of the augmentation's state what it begins with."""
    shapes = {"params": abstract.params, "w_mean": abstract.state["generator"]["w_mean"]}
    filled = fill(shapes, place_of(side), tensors)
    state = {name: part for name, part in abstract.state.items() if name != "generator"}
    fresh = {name: {key: np.zeros(leaf.shape, leaf.dtype) for key, leaf in part.items()} for name, part in state.items()}
    return Variables(filled["params"], {**fresh, "generator": {"w_mean": filled["w_mean"]}})


def place_of(side: int) -> Callable[[str], Leaf]:
    """From the path of ours to the tensor of theirs."""

    def place(path: str) -> Leaf:
        if path == "w_mean":
            return Leaf("generator.mapping.w_avg")
        _, player, *inner, leaf = path.split("/")
        name = _generator(inner) if player == "generator" else _critic(inner, side)
        if leaf == "const":
            return Leaf("generator.synthesis.b4.const", lambda tensor: tensor.transpose(1, 2, 0))
        if leaf == "noise":
            return Leaf(f"generator.{name}.noise_strength", lambda tensor: tensor.reshape(()))
        if leaf == "bias":
            return Leaf(f"{player}.{name}.bias")
        return Leaf(f"{player}.{name}.weight", _view(player, inner))

    return place


def _generator(inner: list[str]) -> str:
    if inner[0] == "mapping":
        return _mapping(inner[1])
    if len(inner) == 1:
        return "const"
    style = ".affine" if inner[2:] else ""
    if inner[1].startswith("image"):
        return f"synthesis.b{4 << int(inner[1][5:])}.torgb{style}"
    number = int(inner[1][4:])
    return f"synthesis.b{4 << (number + 1) // 2}.conv{1 - number % 2}{style}"


def _critic(inner: list[str], side: int) -> str:
    known = {"image": f"b{side}.fromrgb", "last": "b4.conv", "features": "b4.fc", "score": "b4.out"}
    if inner[0] == "mapping":
        return _mapping(inner[1])
    if inner[0] in known:
        return known[inner[0]]
    kind, number = re.fullmatch(r"(conv|down)(\d+)", inner[0]).groups()
    return f"b{side >> int(number)}.conv{int(kind == 'down')}"


def _mapping(layer: str) -> str:
    return "mapping.embed" if layer == "label" else f"mapping.fc{layer.removeprefix('layer')}"


def _view(player: str, inner: list[str]) -> Callable[[np.ndarray], np.ndarray]:
    if player == "critic" and inner == ["features"]:  # of features in the order channel, row, column
        return lambda tensor: _rows_first(tensor)
    if inner[-1].startswith("image") and player == "generator":
        return lambda tensor: tensor[:, :, 0, 0].T
    if inner[-1].startswith("conv") and player == "generator" and int(inner[-1][4:]) % 2:
        return lambda tensor: _last_channels(tensor[:, :, ::-1, ::-1])  # they convolve where we correlate
    return _last_channels


def _last_channels(tensor):
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _rows_first(tensor):
    outputs, inputs = tensor.shape
    return tensor.reshape(outputs, inputs // 16, 4, 4).transpose(2, 3, 1, 0).reshape(inputs, outputs)
