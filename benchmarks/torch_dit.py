"""DiT of `gm_jax.nets.dit`, without labels, as a PyTorch user would write it, and gm_jax's parameters under its names.

The same function and the same parameters, but for query, key and value, which are one matrix here.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.measure import torch_or_exit
from gm_jax.nets.transformer import positions

torch = torch_or_exit()
nn, F = torch.nn, torch.nn.functional


class DiT(nn.Module):
    """(x [b, 3, H, W], t [b]) -> [b, 3, H, W]."""

    def __init__(self, size=32, channels=384, depth=12, num_heads=6, patch=2, frequencies=256):
        super().__init__()
        half, side = frequencies // 2, size // patch
        self.register_buffer("frequencies", torch.exp(-math.log(10000) / half * torch.arange(half)), persistent=False)
        self.register_buffer("positions", torch.tensor(positions(side, side, channels)), persistent=False)
        self.patches = nn.Conv2d(3, channels, patch, patch)
        self.time0, self.time1 = nn.Linear(frequencies, channels), nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(Block(channels, num_heads) for _ in range(depth))
        self.modulation, self.out = nn.Linear(channels, 2 * channels), nn.Linear(channels, patch**2 * 3)
        self.grid, self.size = (side, side, patch, patch, 3), size

    def forward(self, x, t):
        angles = t[:, None] * self.frequencies
        told = F.silu(self.time1(F.silu(self.time0(torch.cat([angles.cos(), angles.sin()], 1)))))
        h = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            h = block(h, told)
        shift, scale = self.modulation(told)[:, None].chunk(2, -1)
        h = modulated(h, shift, scale)
        with torch.autocast(x.device.type, enabled=False):
            h = self.out(h.float()).reshape(len(x), *self.grid)
        return h.permute(0, 5, 1, 3, 2, 4).reshape(len(x), 3, self.size, self.size)


class Block(nn.Module):
    def __init__(self, channels, num_heads):
        super().__init__()
        self.heads = num_heads
        self.modulation = nn.Linear(channels, 6 * channels)
        self.qkv, self.attention_out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.perceptron_in, self.perceptron_out = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x, told):
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(told)[:, None].chunk(6, -1)
        x = x + gate * self.attention(modulated(x, shift, scale))
        h = F.gelu(self.perceptron_in(modulated(x, shift2, scale2)), approximate="tanh")
        return x + gate2 * self.perceptron_out(h)

    def attention(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.attention_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def modulated(x, shift, scale):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


def load(net: DiT, params: Mapping[str, Any]) -> None:
    """Copies the parameters of gm_jax's network into `net`."""
    found = {}
    for name in ("time0", "time1", "modulation", "out"):
        found |= dense(name, params[name])
    kernel = np.asarray(params["patches"]["kernel"])
    patch = net.patches.kernel_size[0]
    found["patches.weight"] = kernel.reshape(patch, patch, 3, -1).transpose(3, 2, 0, 1)
    found["patches.bias"] = np.asarray(params["patches"]["bias"])
    for i in range(len(net.blocks)):
        block = params[f"block{i}"]
        parts = [dense("qkv", block["attention"][name]) for name in ("query", "key", "value")]
        of_block = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        of_block |= dense("attention_out", block["attention"]["out"]) | dense("modulation", block["modulation"])
        of_block |= dense("perceptron_in", block["perceptron"]["in"]) | dense("perceptron_out", block["perceptron"]["out"])
        found |= {f"blocks.{i}.{name}": value for name, value in of_block.items()}
    net.load_state_dict({name: torch.tensor(value) for name, value in found.items()})


def dense(name: str, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {f"{name}.weight": np.asarray(params["kernel"]).T, f"{name}.bias": np.asarray(params["bias"])}
