"""The U-Net of DDPM in diffusers (`UNet2DModel`) and in torchcfm (`UNetModel`, that of improved DDPM)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gm_jax.errors import InputError
from gm_jax.pretrained.filling import TORCH, Layer, Leaf, check, last_channels, of_part
from gm_jax.pretrained.formats import Tensors

# --- diffusers ----------------------------------------------------------------------------------------------------------------

BLOCK = {"norm0": "norm1", "conv0": "conv1", "time": "time_emb_proj", "norm1": "norm2", "conv1": "conv2"}
BLOCK["shortcut"] = "conv_shortcut"
ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.15

# setting -> what is taken for it, and diffusers' default, which is meant where config.json is silent
FIXED = {
    "act_fn": ("silu", "silu"),
    "add_attention": (True, True),
    "attention_head_dim": (None, 8),
    "center_input_sample": (False, False),
    "class_embed_type": (None, None),
    "downsample_padding": (0, 1),
    "downsample_type": ("conv", "conv"),
    "flip_sin_to_cos": (False, True),
    "freq_shift": (1, 0),
    "mid_block_scale_factor": (1, 1),
    "norm_eps": (1e-6, 1e-5),
    "norm_num_groups": (32, 32),
    "num_class_embeds": (None, None),
    "resnet_time_scale_shift": ("default", "default"),
    "time_embedding_type": ("positional", "positional"),
    "upsample_type": ("conv", "conv"),
}


def diffusers_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `nets.backbones.unet` for a config.json of diffusers. Raises InputError for a network that ours is not."""
    what = "diffusers' UNet2DModel"
    for name in ("sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block", "down_block_types"):
        if name not in config:
            raise InputError(f"config.json of {what} lacks {name}; give the whole file")
    found = {name: config.get(name, default) for name, (_, default) in FIXED.items()}
    check(
        found | ({"act_fn": "silu"} if found["act_fn"] == "swish" else {}),
        {name: one for name, (one, _) in FIXED.items()},
        what,
    )
    widths, down = list(config["block_out_channels"]), list(config["down_block_types"])
    check_groups(widths[0])
    check({"out_channels": config["out_channels"]}, {"out_channels": config["in_channels"]}, what)
    known = {"DownBlock2D": False, "AttnDownBlock2D": True}
    if any(kind not in known for kind in down) or any(width % widths[0] for width in widths):
        raise InputError(f"{what} has blocks {down} of {widths} channels; only {' and '.join(known)} can be imported")
    up = [kind.replace("Down", "Up") for kind in reversed(down)]
    check({"up_block_types": list(config.get("up_block_types", up))}, {"up_block_types": up}, what)
    return {
        "channels": widths[0],
        "channel_multipliers": tuple(width // widths[0] for width in widths),
        "num_res_blocks": config["layers_per_block"],
        "attention_resolutions": tuple(config["sample_size"] >> level for level, kind in enumerate(down) if known[kind]),
    }


def check_groups(channels: int) -> None:
    """InputError unless our GroupNorms have 32 groups as theirs have."""
    if channels < 128 or channels % 32:
        raise InputError(f"a network of {channels} channels in 32 groups cannot be imported; ours has 32 from 128 channels on")


def diffusers_names(tensors: Tensors) -> Tensors:
    """With the names that diffusers now has for the layers of its attention."""
    return {_new_name(name): tensor for name, tensor in tensors.items()}


def _new_name(name: str) -> str:
    head, layer, leaf = (["", "", *name.split(".")])[-3:] if name.count(".") < 2 else name.rsplit(".", 2)
    return f"{head}.{OLD_ATTENTION[layer]}.{leaf}" if ".attentions." in name and layer in OLD_ATTENTION else name


def diffusers_table(settings: Mapping[str, Any]) -> dict[str, Layer]:
    """Our layers -> theirs."""
    last, count = len(settings["channel_multipliers"]) - 1, settings["num_res_blocks"]
    table = {"time/dense0": "time_embedding.linear_1", "time/dense1": "time_embedding.linear_2"}
    table |= {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
    blocks = {f"middle_block{i}": f"mid_block.resnets.{i}" for i in (0, 1)}
    attentions = {"middle_attention": "mid_block.attentions.0"}
    for level in range(last + 1):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        for ours, theirs, n in (("down", down, count), ("up", up, count + 1)):
            blocks |= {f"{ours}{level}_block{i}": f"{theirs}.resnets.{i}" for i in range(n)}
            attentions |= {f"{ours}{level}_block{i}_attention": f"{theirs}.attentions.{i}" for i in range(n)}
        table |= {f"down{level}_downsample": f"{down}.downsamplers.0.conv", f"up{level}_upsample": f"{up}.upsamplers.0.conv"}
    for inside, of in ((BLOCK, blocks), (ATTENTION, attentions)):
        table |= {f"{our}/{layer}": f"{their}.{name}" for our, their in of.items() for layer, name in inside.items()}
    return {ours: Layer(theirs, TORCH) for ours, theirs in table.items()}


# --- torchcfm -----------------------------------------------------------------------------------------------------------------

ADM_BLOCK = {"norm0": "in_layers.0", "conv0": "in_layers.2", "time": "emb_layers.1", "norm1": "out_layers.0"}
ADM_BLOCK |= {"conv1": "out_layers.3", "shortcut": "skip_connection"}
ADM_HEAD = 64  # channels


def adm_settings(tensors: Tensors) -> dict[str, Any]:
    """Fields of `nets.backbones.unet`, read off the names and shapes of a `UNetModel`; heads are taken to have 64 channels."""
    places = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("input_blocks.")})
    if not places or "input_blocks.0.0.weight" not in tensors:
        raise InputError("the file holds no UNetModel of torchcfm, which alone can be imported")
    channels = len(tensors["input_blocks.0.0.weight"])
    check_groups(channels)
    down = [i for i in places if f"input_blocks.{i}.0.op.weight" in tensors]
    ends = [0, *down, places[-1] + 1]  # blocks of level l are those between two ends
    widths = [len(tensors.get(f"input_blocks.{first + 1}.0.in_layers.2.weight", ())) for first in ends[:-1]]
    attended = [level for level, first in enumerate(ends[:-1]) if f"input_blocks.{first + 1}.1.qkv.weight" in tensors]
    heads = {widths[level] // ADM_HEAD for level in [*attended, -1]}
    if len(heads) > 1:
        raise InputError(f"attention of {' and '.join(map(str, sorted(heads)))} heads in one network cannot be imported")
    return {
        "channels": channels,
        "channel_multipliers": tuple(width // channels for width in widths),
        "num_res_blocks": ends[1] - 1,
        "attention_resolutions": tuple(32 >> level for level in attended),
        "num_heads": max(1, *heads),
        "variant": "adm",
        "clock": "time",
    }


def adm_table(settings: Mapping[str, Any]) -> dict[str, Layer]:
    """Our layers -> theirs, where they run the other way: told 1 - t, they answer minus the velocity.

    Their sinusoids of 1 - t are turned ones of t, which the layer behind them takes up.
    """
    last, count = len(settings["channel_multipliers"]) - 1, settings["num_res_blocks"]
    blocks = {"middle_block0": "middle_block.0", "middle_block1": "middle_block.2"}
    attentions, convolutions, at = {"middle_attention": "middle_block.1"}, {"conv_in": "input_blocks.0.0"}, 1
    for level in range(last + 1):
        for i in range(count):
            blocks[f"down{level}_block{i}"] = f"input_blocks.{at}.0"
            attentions[f"down{level}_block{i}_attention"] = f"input_blocks.{at}.1"
            at += 1
        convolutions[f"down{level}_downsample"] = f"input_blocks.{at}.0.op"
        at += 1
    at = 0
    for level in reversed(range(last + 1)):
        for i in range(count + 1):
            blocks[f"up{level}_block{i}"] = f"output_blocks.{at}.0"
            attentions[f"up{level}_block{i}_attention"] = f"output_blocks.{at}.1"
            at += 1
        attends = 32 >> level in settings["attention_resolutions"]
        convolutions[f"up{level}_upsample"] = f"output_blocks.{at - 1}.{1 + attends}.conv"
    table = {ours: Layer(theirs, TORCH) for ours, theirs in convolutions.items()}
    for ours, theirs in blocks.items():
        table |= {f"{ours}/{layer}": Layer(f"{theirs}.{name}", TORCH) for layer, name in ADM_BLOCK.items()}
    for ours, theirs in attentions.items():
        table |= {f"{ours}/norm": Layer(f"{theirs}.norm", TORCH), f"{ours}/out": Layer(f"{theirs}.proj_out", TORCH)}
        for i, name in enumerate(("query", "key", "value")):
            table[f"{ours}/{name}"] = Layer(f"{theirs}.qkv", of_part(_of_heads(i, settings["num_heads"])))
    negated = {"kernel": Leaf("weight", lambda tensor: -last_channels(tensor)), "bias": Leaf("bias", lambda tensor: -tensor)}
    table |= {"norm_out": Layer("out.0", TORCH), "conv_out": Layer("out.2", negated)}
    turned = {"kernel": Leaf("weight", _of_reversed_time), "bias": Leaf("bias")}
    return table | {"time/dense0": Layer("time_embed.0", turned), "time/dense1": Layer("time_embed.2", TORCH)}


def _of_heads(i: int, heads: int) -> Any:
    """Queries (0), keys (1) or values (2) of all heads, which lie head by head."""
    return lambda tensor: tensor.reshape(heads, 3, -1, *tensor.shape[1:])[:, i].reshape(-1, *tensor.shape[1:])


def _of_reversed_time(tensor: np.ndarray) -> np.ndarray:
    """The matrix for sines and cosines of t, from that for cosines and sines of 1 - t."""
    half = tensor.shape[1] // 2
    frequencies = np.exp(-np.log(10000) / half * np.arange(half))
    cosine, sine = tensor[:, :half].astype(np.float64), tensor[:, half:].astype(np.float64)
    of_sine = np.sin(frequencies) * cosine - np.cos(frequencies) * sine
    of_cosine = np.cos(frequencies) * cosine + np.sin(frequencies) * sine
    return np.concatenate([of_sine, of_cosine], axis=1).T
