"""DDPM++ of `gm_jax.nets.song_unet` as a PyTorch user would write it, and gm_jax's parameters under its names.

The same function and the same parameters, but for query, key and value, which are one matrix here.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks.measure import torch_or_exit
from benchmarks.torch_unet import group_norm

torch = torch_or_exit()
nn, F = torch.nn, torch.nn.functional


class SongUNet(nn.Module):
    """(x [b, 3, H, W], t [b]) -> [b, 3, H, W]; blocks are run in the order of `down`, `middle`, `up`."""

    def __init__(self, size=32, channels=128, multipliers=(2, 2, 2), num_res_blocks=4, attention=(16,), dropout=0.13):
        super().__init__()
        self.dense0, self.dense1 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, 4 * channels)
        half = channels // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10000) / (half - 1) * torch.arange(half)), persistent=False)
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.down, self.middle, self.up = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        block = lambda inputs, outputs, **options: Block(inputs, outputs, 4 * channels, dropout, **options)  # noqa: E731
        width, skips, last = channels, [channels], len(multipliers) - 1
        for level, multiplier in enumerate(multipliers):
            attend = size >> level in attention
            if level > 0:
                self.down[f"down{level}"] = block(width, width, resample="down")
                skips.append(width)
            for i in range(num_res_blocks):
                self.down[f"down{level}_block{i}"] = block(width, channels * multiplier, attend=attend)
                width = channels * multiplier
                skips.append(width)
        self.middle["middle_block0"] = block(width, width, attend=True)
        self.middle["middle_block1"] = block(width, width)
        for level in reversed(range(last + 1)):
            if level < last:
                self.up[f"up{level}"] = block(width, width, resample="up")
            for i in range(num_res_blocks + 1):
                attend = i == num_res_blocks and size >> level in attention
                outputs = channels * multipliers[level]
                self.up[f"up{level}_block{i}"] = block(width + skips.pop(), outputs, attend=attend)
                width = outputs
        self.norm_out, self.conv_out = group_norm(width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x, t):
        angles = t[:, None] * self.frequencies
        emb = F.silu(self.dense1(F.silu(self.dense0(torch.cat([angles.sin(), angles.cos()], 1)))))
        with torch.autocast(x.device.type, enabled=False):
            h = self.conv_in(x)
        skips = [h]
        for block in self.down.values():
            h = block(h, emb)
            skips.append(h)
        for block in self.middle.values():
            h = block(h, emb)
        for name, block in self.up.items():
            h = block(torch.cat([h, skips.pop()], 1) if "_block" in name else h, emb)
        h = F.silu(self.norm_out(h))
        with torch.autocast(x.device.type, enabled=False):
            return self.conv_out(h.float())


class Block(nn.Module):
    def __init__(self, inputs, outputs, embedding, dropout, resample=None, attend=False):
        super().__init__()
        self.resample, self.attend = resample, attend
        self.norm0, self.norm1 = group_norm(inputs), group_norm(outputs)
        self.conv0, self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.embedding, self.dropout = nn.Linear(embedding, outputs), nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs or resample else nn.Identity()
        if attend:
            self.norm2, self.qkv, self.out = group_norm(outputs), nn.Linear(outputs, 3 * outputs), nn.Linear(outputs, outputs)

    def forward(self, x, emb):
        h = self.conv0(self.resampled(F.silu(self.norm0(x)))) + self.embedding(emb)[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        h = (self.shortcut(self.resampled(x)) + h) * math.sqrt(0.5)
        if not self.attend:
            return h
        flat = self.norm2(h).flatten(2).transpose(1, 2)  # [b, pixels, channels]
        query, key, value = self.qkv(flat)[:, None].chunk(3, -1)  # one head
        seen = self.out(F.scaled_dot_product_attention(query, key, value)[:, 0])
        return (h + seen.transpose(1, 2).unflatten(2, h.shape[2:])) * math.sqrt(0.5)

    def resampled(self, x):
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x


def arrays(params: Mapping[str, Any], net: SongUNet) -> dict[str, np.ndarray]:
    """The parameters of gm_jax's network under the names and in the shapes of `net`; KeyError or ValueError where one differs.

    Raises ValueError, too, where gm_jax has parameters that `net` has not.
    """
    flat = {name: np.asarray(value) for name, value in flatten_dict(params, sep=".").items()}

    def take(name: str) -> np.ndarray:
        if ".qkv." in name:
            return np.concatenate([take(name.replace("qkv", part)) for part in ("query", "key", "value")])
        module, kind = re.sub(r"^(down|middle|up)\.", "", name).rsplit(".", 1)
        norm = module.rsplit(".", 1)[-1].startswith("norm")
        value = flat.pop(f"{module}.{kind if kind == 'bias' else 'scale' if norm else 'kernel'}")
        return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T

    taken = {name: take(name).reshape(tensor.shape) for name, tensor in net.state_dict().items()}
    if flat:
        raise ValueError(f"not in the PyTorch network: {', '.join(flat)}")
    return taken


def load(net: SongUNet, params: Mapping[str, Any]) -> None:
    """Copies the parameters of gm_jax's network into `net`."""
    net.load_state_dict({name: torch.tensor(value) for name, value in arrays(params, net).items()})
