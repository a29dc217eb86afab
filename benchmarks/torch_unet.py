"""The U-Net of `gm_jax.nets.unet` as a PyTorch user would write it, and gm_jax's parameters under its names.

The same function and the same parameters, but for query, key and value, which are one matrix here. Autocast decides the
precision; the first and the last convolution are in float32, as there.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks.measure import torch_or_exit

torch = torch_or_exit()
nn, F = torch.nn, torch.nn.functional


class UNet(nn.Module):
    """(x [b, 3, H, W], t [b]) -> [b, 3, H, W], with the residual blocks of the paper at each resolution."""

    def __init__(self, size=32, channels=128, multipliers=(1, 2, 2, 2), num_res_blocks=2, attention=(16,), dropout=0.1):
        super().__init__()
        self.time = TimeEmbedding(channels)
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.down, self.middle, self.up = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()

        def res_block(inputs, outputs, attend=False):
            return ResBlock(inputs, outputs, 4 * channels, dropout, attend)

        width, skips = channels, [channels]
        for level, multiplier in enumerate(multipliers):
            for i in range(num_res_blocks):
                self.down[f"down{level}_block{i}"] = res_block(width, channels * multiplier, size >> level in attention)
                width = channels * multiplier
                skips.append(width)
            if level < len(multipliers) - 1:
                self.down[f"down{level}_downsample"] = Downsample(width, width, 3, stride=2)
                skips.append(width)
        self.middle["middle_block0"] = res_block(width, width)
        self.middle["middle_attention"] = AttentionBlock(width)
        self.middle["middle_block1"] = res_block(width, width)
        for level in reversed(range(len(multipliers))):
            for i in range(num_res_blocks + 1):
                outputs = channels * multipliers[level]
                self.up[f"up{level}_block{i}"] = res_block(width + skips.pop(), outputs, size >> level in attention)
                width = outputs
            if level > 0:
                self.up[f"up{level}_upsample"] = Upsample(width, width, 3, padding=1)
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x, t):
        emb = self.time(t)
        with torch.autocast(x.device.type, enabled=False):
            h = self.conv_in(x)
        skips = [h]
        for block in self.down.values():
            h = block(h, emb)
            skips.append(h)
        for block in self.middle.values():
            h = block(h, emb)
        for block in self.up.values():
            h = block(torch.cat([h, skips.pop()], 1) if isinstance(block, ResBlock) else h, emb)
        h = F.silu(self.norm_out(h))
        with torch.autocast(x.device.type, enabled=False):
            return self.conv_out(h.float())


class TimeEmbedding(nn.Module):
    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.register_buffer("frequencies", torch.exp(-math.log(10000) / (half - 1) * torch.arange(half)), persistent=False)
        self.dense0 = nn.Linear(channels, 4 * channels)
        self.dense1 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t):
        angles = t[:, None] * self.frequencies
        return self.dense1(F.silu(self.dense0(torch.cat([angles.sin(), angles.cos()], 1))))


class ResBlock(nn.Module):
    def __init__(self, inputs, outputs, embedding, dropout, attend):
        super().__init__()
        self.norm0 = group_norm(inputs)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(embedding, outputs)
        self.norm1 = group_norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = AttentionBlock(outputs) if attend else None

    def forward(self, x, emb):
        h = self.conv0(F.silu(self.norm0(x)))
        h = h + self.time(F.silu(emb))[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        h = self.shortcut(x) + h
        return h if self.attention is None else self.attention(h)


class AttentionBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x, emb=None):
        h = self.norm(x).flatten(2).transpose(1, 2)  # [b, pixels, channels]
        query, key, value = self.qkv(h)[:, None].chunk(3, -1)  # one head
        h = self.out(F.scaled_dot_product_attention(query, key, value)[:, 0])
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Conv2d):
    """Padded as by "SAME": on the right and at the bottom."""

    def forward(self, x, emb):
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Conv2d):
    def forward(self, x, emb):
        return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))


def group_norm(channels):
    return nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 4))), channels, eps=1e-6)


# --- parameters ---------------------------------------------------------------------------------------------------------------


def arrays(params: Mapping[str, Any], net: UNet) -> dict[str, np.ndarray]:
    """The parameters of gm_jax's network under the names and in the shapes of `net`; KeyError or ValueError where one differs.

    Raises ValueError, too, where gm_jax has parameters that `net` has not.
    """
    flat = {name: np.asarray(value) for name, value in flatten_dict(params, sep=".").items()}

    def take(name: str) -> np.ndarray:
        if ".qkv." in name:
            return np.concatenate([take(name.replace("qkv", part)) for part in ("query", "key", "value")])
        module, kind = re.sub(r"^(down|middle|up)\.", "", name).replace(".attention.", "_attention.").rsplit(".", 1)
        norm = module.rsplit(".", 1)[-1].startswith("norm")
        value = flat.pop(f"{module}.{kind if kind == 'bias' else 'scale' if norm else 'kernel'}")
        return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T

    taken = {name: take(name).reshape(tensor.shape) for name, tensor in net.state_dict().items()}
    if flat:
        raise ValueError(f"not in the PyTorch network: {', '.join(flat)}")
    return taken


def load(net: UNet, params: Mapping[str, Any]) -> None:
    """Copies the parameters of gm_jax's network into `net`."""
    net.load_state_dict({name: torch.tensor(value) for name, value in arrays(params, net).items()})
