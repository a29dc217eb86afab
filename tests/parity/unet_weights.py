"""Where each parameter of our U-Net is in diffusers' `UNet2DModel`, and how it lies there."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from gm_jax.pretrained.unets import diffusers_table


class Sizes(NamedTuple):
    """Of a network and its images."""

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 1
    attention: int = 16  # at this resolution, and in the middle
    image: int = 32


def table(sizes: Sizes) -> dict[tuple[str, ...], str]:
    """Path of a layer in our parameters -> name of the module of theirs."""
    settings = {"channel_multipliers": sizes.multipliers, "num_res_blocks": sizes.blocks}
    return {tuple(ours.split("/")): layer.name for ours, layer in diffusers_table(settings).items()}


def leaves(tree: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Path and array of each parameter."""
    for name, value in tree.items():
        yield from leaves(value, (*path, name)) if isinstance(value, dict) else [((*path, name), value)]


def load(net: Any, params: Any, sizes: Sizes) -> None:
    """Every parameter of theirs is set, and every one of ours is used, once."""
    import torch

    left, places = dict(net.named_parameters()), table(sizes)
    for path, leaf in leaves(params):
        parameter = left.pop(their_name(path, places))
        parameter.data = torch.from_numpy(np.array(_to_theirs(np.asarray(leaf)))).reshape(parameter.shape)
    assert not left, f"{sorted(left)} are not in the table"


def their_name(path: tuple[str, ...], places: dict[tuple[str, ...], str]) -> str:
    """Of the parameter at that path of ours; `places` is the table."""
    return f"{places[path[:-1]]}.{'bias' if path[-1] == 'bias' else 'weight'}"


def _to_theirs(leaf: np.ndarray) -> np.ndarray:
    """Output channels first, as in PyTorch."""
    return leaf if leaf.ndim == 1 else leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T


def to_ours(tensor: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Output channels last; of this shape, as our 1x1 convolutions are dense layers."""
    return (tensor.transpose(2, 3, 1, 0) if len(shape) == 4 else tensor.reshape(shape[::-1]).T).reshape(shape)
