"""DDPM++ and NCSN++ in the codes of EDM, of score SDE, and of consistency models, which is score SDE's in JAX.

EDM names a block by its resolution. Score SDE counts: in PyTorch all modules in the order of their making, in JAX each kind by
itself, in the same order.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from gm_jax.errors import InputError
from gm_jax.pretrained.filling import FLAX, TORCH, Layer, Leaf, last_channels, of_part
from gm_jax.pretrained.formats import Tensors

IMAGE = 32  # height of CIFAR-10's images, which score SDE's files do not tell

# --- EDM ----------------------------------------------------------------------------------------------------------------------

EDM_BLOCK = {"norm0": "norm0", "conv0": "conv0", "embedding": "affine", "norm1": "norm1", "conv1": "conv1", "shortcut": "skip"}
EDM_BLOCK |= {"norm2": "norm2", "out": "proj"}
BUFFERS = ("resample_filter",)  # which ours are constants


def edm_settings(tensors: Tensors) -> dict[str, Any]:
    """Fields of `nets.backbones.song_unet`, read off the names and shapes of a `SongUNet`."""
    sides = sorted({int(name.split(".")[1].partition("x")[0]) for name in tensors if name.startswith("enc.")}, reverse=True)
    if not sides or f"enc.{sides[0]}x{sides[0]}_conv.weight" not in tensors:
        raise InputError("the pickle holds no SongUNet (DDPM++ or NCSN++), which alone of EDM's networks can be imported")
    channels = len(tensors[f"enc.{sides[0]}x{sides[0]}_conv.weight"])
    blocks = [name for name in tensors if name.startswith(f"enc.{sides[0]}x{sides[0]}_block") and name.endswith("conv0.weight")]
    widths = [len(tensors.get(f"enc.{side}x{side}_block0.conv0.weight", ())) for side in sides]
    attended = [side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in tensors]
    return {
        "channels": channels,
        "channel_multipliers": tuple(width // channels for width in widths),
        "num_res_blocks": len(blocks),
        "attention_resolutions": tuple(attended),
        "embedding": "fourier" if "map_noise.freqs" in tensors else "positional",
        "encoder": "residual" if any("aux_residual" in name for name in tensors) else "standard",
    }


def edm_image(tensors: Tensors) -> tuple[int, int, int]:
    """The shape of the images."""
    first = next(name for name in tensors if name.startswith("enc.") and name.endswith("_conv.weight"))
    side = int(first.split(".")[1].partition("x")[0])
    return (side, side, tensors[first].shape[1])


def edm_table(settings: Mapping[str, Any], side: int) -> dict[str, Layer]:
    """Our layers -> theirs. Queries, keys and values lie interleaved in their `qkv`."""
    last = len(settings["channel_multipliers"]) - 1
    sides = [f"{side >> level}x{side >> level}" for level in range(last + 1)]
    table = {"fourier": Layer("map_noise", {"frequencies": Leaf("freqs")})}
    table |= {"label": Layer("map_label", TORCH), "augmentation": Layer("map_augment", TORCH)}
    table |= {f"dense{i}": Layer(f"map_layer{i}", TORCH) for i in (0, 1)}
    table |= {"conv_in": Layer(f"enc.{sides[0]}_conv", TORCH), "norm_out": Layer(f"dec.{sides[0]}_aux_norm", TORCH)}
    table |= {"conv_out": Layer(f"dec.{sides[0]}_aux_conv", TORCH)}
    blocks = {f"middle_block{i}": f"dec.{sides[last]}_in{i}" for i in (0, 1)}
    for level, size in enumerate(sides):
        blocks |= {f"down{level}": f"enc.{size}_down", f"up{level}": f"dec.{size}_up"}
        blocks |= {f"down{level}_block{i}": f"enc.{size}_block{i}" for i in range(settings["num_res_blocks"])}
        blocks |= {f"up{level}_block{i}": f"dec.{size}_block{i}" for i in range(settings["num_res_blocks"] + 1)}
        table[f"pyramid{level}"] = Layer(f"enc.{size}_aux_residual", TORCH)
    for ours, theirs in blocks.items():
        table |= {f"{ours}/{layer}": Layer(f"{theirs}.{name}", TORCH) for layer, name in EDM_BLOCK.items()}
        for i, name in enumerate(("query", "key", "value")):
            table[f"{ours}/{name}"] = Layer(f"{theirs}.qkv", of_part(lambda tensor, i=i: tensor[i::3]))
    return table


# --- score SDE ----------------------------------------------------------------------------------------------------------------

SDE_BLOCK = {"norm0": "GroupNorm_0", "conv0": "Conv_0", "embedding": "Dense_0", "norm1": "GroupNorm_1", "conv1": "Conv_1"}
SDE_BLOCK["shortcut"] = "Conv_2"
NIN = {"query": "NIN_0", "key": "NIN_1", "value": "NIN_2", "out": "NIN_3"}
NIN_LEAVES = {"kernel": Leaf("W"), "bias": Leaf("b")}  # input channels first in either code
FREQUENCIES = {"frequencies": Leaf("W")}


def sde_modules(settings: Mapping[str, Any], side: int = IMAGE) -> Iterator[tuple[str, str]]:
    """(our layer or block, the class of theirs), in the order in which they are made."""
    last, blocks = len(settings["channel_multipliers"]) - 1, settings["num_res_blocks"]
    attended = [level for level in range(last + 1) if side >> level in settings["attention_resolutions"]]
    block, attention = "ResnetBlockBigGANpp", "AttnBlockpp"
    if settings["embedding"] == "fourier":
        yield "fourier", "GaussianFourierProjection"
    yield from (("dense0", "Dense"), ("dense1", "Dense"), ("conv_in", "Conv"))
    for level in range(last + 1):
        for i in range(blocks):
            yield f"down{level}_block{i}", block
            if level in attended:
                yield f"down{level}_block{i}", attention
        if level < last:
            yield f"down{level + 1}", block
            if settings["encoder"] == "residual":
                yield f"pyramid{level + 1}", "Downsample"
    yield from (("middle_block0", block), ("middle_block0", attention), ("middle_block1", block))
    for level in reversed(range(last + 1)):
        yield from ((f"up{level}_block{i}", block) for i in range(blocks + 1))
        if level in attended:
            yield f"up{level}_block{blocks}", attention
        if level:
            yield f"up{level - 1}", block
    yield from (("norm_out", "GroupNorm"), ("conv_out", "Conv"))


def sde_table(settings: Mapping[str, Any], flax: bool) -> dict[str, Layer]:
    """Our layers -> theirs, in JAX or in PyTorch."""
    table, leaves, counts = {}, FLAX if flax else TORCH, {}
    for i, (ours, kind) in enumerate(sde_modules(settings)):
        theirs = f"{kind}_{counts.get(kind, 0)}" if flax else f"all_modules.{i}"
        counts[kind] = counts.get(kind, 0) + 1
        if kind == "ResnetBlockBigGANpp":
            table |= {f"{ours}/{layer}": Layer(f"{theirs}.{name}", leaves) for layer, name in SDE_BLOCK.items()}
        elif kind == "AttnBlockpp":
            table |= {f"{ours}/{layer}": Layer(f"{theirs}.{name}", NIN_LEAVES) for layer, name in NIN.items()}
            table[f"{ours}/norm2"] = Layer(f"{theirs}.GroupNorm_0", leaves)
        elif kind == "Downsample":
            kernel = Leaf("weight") if flax else Leaf("weight", last_channels)
            table[ours] = Layer(f"{theirs}.Conv2d_0", {"kernel": kernel, "bias": Leaf("bias")})
        else:
            table[ours] = Layer(theirs, FREQUENCIES if kind == "GaussianFourierProjection" else leaves)
    return table


def sde_settings(tensors: Tensors, flax: bool) -> dict[str, Any]:
    """Fields of `nets.backbones.song_unet`, read off the names and shapes of an `NCSNpp` of BigGAN's blocks.

    Attention in JAX's file is taken to be at height 16: only its number shows there.
    """
    prefix, kernel = ("ResnetBlockBigGANpp_", "kernel") if flax else ("all_modules.", "weight")
    places = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    numbers = sorted(int(place) for place in places if place.isdecimal())
    blocks = [(i, *_widths(tensors, f"{prefix}{i}", flax)) for i in numbers if f"{prefix}{i}.Conv_0.{kernel}" in tensors]
    # what resamples keeps the number of channels, and has a shortcut all the same
    resampling = [i for i, before, after in blocks if before == after and f"{prefix}{i}.Conv_2.{kernel}" in tensors]
    if not blocks or len(resampling) % 2:
        raise InputError("the file holds no NCSNpp of BigGAN's blocks (DDPM++ or NCSN++), which alone can be imported")
    levels = len(resampling) // 2 + 1
    plain = [block for block in blocks if block[0] not in resampling]
    count = ((len(plain) - 2) // levels - 1) // 2
    fourier = "GaussianFourierProjection_0.W" in tensors if flax else "all_modules.0.W" in tensors
    channels = plain[0][1]
    attended = [i for i, _, _ in plain[: count * levels] if f"{prefix}{i + 1}.NIN_0.W" in tensors]
    order = [i for i, _, _ in plain]
    return {
        "channels": channels,
        "channel_multipliers": tuple(plain[level * count][2] // channels for level in range(levels)),
        "num_res_blocks": count,
        "attention_resolutions": (16,) if flax else tuple(sorted({IMAGE >> order.index(i) // count for i in attended})[::-1]),
        "embedding": "fourier" if fourier else "positional",
        "encoder": "residual" if any(".Conv2d_0." in name for name in tensors) else "standard",
    }


def _widths(tensors: Mapping[str, np.ndarray], block: str, flax: bool) -> tuple[int, int]:
    """Channels that a block sees, and that it makes."""
    shape = tensors[f"{block}.Conv_0.{'kernel' if flax else 'weight'}"].shape
    return (shape[-2], shape[-1]) if flax else (shape[1], shape[0])
