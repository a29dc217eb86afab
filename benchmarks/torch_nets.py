"""The ConvVAE and the RefineNet in PyTorch, with the submodules' names of `gm_jax.nets`, by which parameters are copied.

Networks take and give images [batch, height, width, channel] as ours do, which PyTorch views as channels_last without a copy.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.measure import torch_or_exit

torch = torch_or_exit()
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

ONES = ("scale", "gamma", "delta")  # parameters about 1; biases and beta are about 0
ON_GPU = jax.default_backend() == "gpu"
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
torch.backends.cudnn.benchmark = True
torch.set_float32_matmul_precision("high")  # TF32 where a GPU computes in float32, as JAX has it

# ---------------------------------------------------------------- the same parameters on both sides


def random_params(shapes: Any, seed: int = 0) -> Any:
    """Flax parameters of these shapes without the zeros of an initialisation, which would hide what is computed before them."""
    rng = np.random.default_rng(seed)

    def draw(path, a):
        name, noise = path[-1].key, rng.standard_normal(a.shape, np.float32)
        return 0.7 * noise / math.sqrt(math.prod(a.shape[:-1])) if name == "kernel" else (name in ONES) + 0.1 * noise

    return jax.tree_util.tree_map_with_path(draw, shapes)


def state_dict(params: Any) -> dict[str, torch.Tensor]:
    """Flax parameters (or their gradients) under PyTorch's names and in its layout."""

    def layout(name, a):
        a = torch.tensor(np.asarray(a))
        return a if name != "kernel" else a.permute(3, 2, 0, 1) if a.ndim == 4 else a.T

    leaves = [([key.key for key in path], leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    rename = {"kernel": "weight", "scale": "weight"}
    return {".".join([*modules, rename.get(name, name)]): layout(name, leaf) for (*modules, name), leaf in leaves}


def with_params(module: nn.Module, params: Any) -> nn.Module:
    """`module` in channels_last with a copy of Flax parameters. Raises RuntimeError unless all names and shapes agree."""
    module.load_state_dict(state_dict(params), strict=True)
    return module.to(DEVICE, memory_format=torch.channels_last)


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """float32 without TF32 on both sides, for checks."""
    torch.backends.cudnn.allow_tf32, before = False, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with jax.default_matmul_precision("highest"):
        yield
    torch.backends.cudnn.allow_tf32 = True
    torch.set_float32_matmul_precision(before)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def variants() -> dict[str, Callable[[Callable], Callable]]:
    """Name of a way to run PyTorch -> what makes a function run so."""
    compiled = {"PyTorch, compiled": partial(torch.compile, dynamic=False)}
    if ON_GPU:
        compiled["PyTorch, compiled, CUDA graphs"] = partial(torch.compile, dynamic=False, mode="reduce-overhead")
    return {"PyTorch, eager": lambda fn: fn, **compiled}


def nchw(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


# ---------------------------------------------------------------- ConvVAE: nets/resnet.py with one block a stage


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, math.gcd(channels, 32) // 4), channels, eps=1e-6)


def conv3(channels: int, out_channels: int, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1, **kwargs)


class VAEBlock(nn.ModuleDict):
    def __init__(self, channels: int):
        super().__init__({f"GroupNorm_{i}": group_norm(channels) for i in range(2)})
        self.update({f"Conv_{i}": conv3(channels, channels) for i in range(2)})

    def forward(self, x):
        h = self["Conv_0"](F.silu(self["GroupNorm_0"](x)))
        return x + self["Conv_1"](F.silu(self["GroupNorm_1"](h)))


class Encoder(nn.ModuleDict):
    """Images to means and log variances."""

    def __init__(self, features: int, widths: list[int], grid: int, colours: int):
        super().__init__({"Conv_0": nn.Conv2d(colours, widths[0], 4, stride=2, padding=1)})
        for i in range(1, len(widths)):
            self[f"Conv_{i}"] = nn.Conv2d(widths[i - 1], widths[i], 3, stride=2)
        self.update({f"ResidualBlock_{i}": VAEBlock(width) for i, width in enumerate(widths)})
        self.update({"GroupNorm_0": group_norm(widths[-1]), "Dense_0": nn.Linear(grid * grid * widths[-1], features)})
        self.stages = len(widths)

    def forward(self, x):
        h = self["Conv_0"](nchw(x))
        for i in range(self.stages):
            if i > 0:  # `SAME`: with stride 2 an even size is padded behind only
                h = self[f"Conv_{i}"](F.pad(h, (0, 1, 0, 1)))
            h = self[f"ResidualBlock_{i}"](h)
        h = F.silu(self["GroupNorm_0"](h))
        return self["Dense_0"](nhwc(h).flatten(1)).float()


class Decoder(nn.ModuleDict):
    """Latents to images."""

    def __init__(self, latent_dim: int, widths: list[int], grid: int, colours: int):
        super().__init__({"Dense_0": nn.Linear(latent_dim, grid * grid * widths[-1])})
        widths = widths[::-1]
        for i in range(1, len(widths)):  # 1x1 convolutions
            self[f"Dense_{i}"] = nn.Linear(widths[i - 1], widths[i])
        self.update({f"ResidualBlock_{i}": VAEBlock(width) for i, width in enumerate(widths)})
        self.update({"GroupNorm_0": group_norm(widths[-1]), "Conv_0": conv3(widths[-1], 4 * colours)})
        self.stages, self.grid = len(widths), grid

    def forward(self, z):
        h = nchw(self["Dense_0"](z).unflatten(1, (self.grid, self.grid, -1)))
        for i in range(self.stages):
            if i > 0:
                h = F.interpolate(nchw(self[f"Dense_{i}"](nhwc(h))), scale_factor=2, mode="nearest")
            h = self[f"ResidualBlock_{i}"](h)
        h = nhwc(self["Conv_0"](F.silu(self["GroupNorm_0"](h))))
        n, height, width, channels = h.shape
        h = h.reshape(n, height, width, 2, 2, channels // 4).permute(0, 1, 3, 2, 4, 5)
        return h.reshape(n, 2 * height, 2 * width, channels // 4).float()


class ConvVAE(nn.Module):
    def __init__(self, latent_dim: int, channels: int, multipliers: tuple[int, ...], image_shape: tuple[int, int, int]):
        super().__init__()
        size, _, colours = image_shape
        widths, grid = [channels * multiplier for multiplier in multipliers], size >> len(multipliers)
        self.encoder = Encoder(2 * latent_dim, widths, grid, colours)
        self.decoder = Decoder(latent_dim, widths, grid, colours)


# ---------------------------------------------------------------- RefineNet: nets/refinenet.py, conditional


class InstanceNormPlus(nn.Module):
    def __init__(self, channels: int, levels: int):
        super().__init__()
        for name in ("gamma", "delta", "beta"):
            self.register_parameter(name, nn.Parameter(torch.empty(levels, channels)))

    def forward(self, x, level):
        gamma, delta, beta = (F.embedding(level, table)[..., None, None] for table in (self.gamma, self.delta, self.beta))
        dtype, x = x.dtype, x.float()
        mean = x.mean((2, 3), keepdim=True)
        variance = (x - mean).square().mean((2, 3), keepdim=True)
        m = (mean - mean.mean(1, keepdim=True)) * torch.rsqrt(mean.var(1, unbiased=False, keepdim=True) + 1e-5)
        scale = gamma * torch.rsqrt(variance + 1e-5)
        return torch.addcmul(gamma * delta * m + beta - mean * scale, x, scale).to(dtype)


def dilated(channels: int, out_channels: int, dilation: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, kernel, padding=dilation * (kernel // 2), dilation=dilation)


class RefineNetBlock(nn.ModuleDict):
    def __init__(self, channels: int, out_channels: int, down: bool, dilation: int, levels: int):
        middle = channels if down else out_channels
        super().__init__({"norm0": InstanceNormPlus(channels, levels), "norm1": InstanceNormPlus(middle, levels)})
        self["conv0"], self["conv1"] = dilated(channels, middle, dilation), dilated(middle, out_channels, dilation)
        if down or channels != out_channels:
            self["shortcut"] = dilated(channels, out_channels, dilation, kernel=1 if dilation == 1 else 3)
        self.halve = down and dilation == 1

    def forward(self, x, level):
        h = self["conv0"](F.elu(self["norm0"](x, level)))
        h = self["conv1"](F.elu(self["norm1"](h, level)))
        h = h + (self["shortcut"](x) if "shortcut" in self else x)
        return F.avg_pool2d(h, 2) if self.halve else h


class RefineBlock(nn.ModuleDict):
    def __init__(self, inputs: list[int], channels: int, output_units: int, levels: int):
        super().__init__()
        for i, width in enumerate(inputs):
            self.add_units(width, 2, f"input{i}", levels)
            if len(inputs) > 1:
                self[f"fuse{i}_norm"], self[f"fuse{i}"] = InstanceNormPlus(width, levels), conv3(width, channels)
        for i in range(2):
            self[f"pool{i}_norm"], self[f"pool{i}"] = InstanceNormPlus(channels, levels), conv3(channels, channels, bias=False)
        self.add_units(channels, output_units, "output", levels)
        self.output_units = output_units

    def add_units(self, channels, units, name, levels):
        for part in (f"{name}_unit{unit}_{i}" for unit in range(units) for i in range(2)):
            self[f"{part}_norm"], self[part] = InstanceNormPlus(channels, levels), conv3(channels, channels, bias=False)

    def units(self, x, level, units, name):
        for unit in range(units):
            h = x
            for part in (f"{name}_unit{unit}_{i}" for i in range(2)):
                h = self[part](F.elu(self[f"{part}_norm"](h, level)))
            x = x + h
        return x

    def forward(self, inputs, level):
        inputs = [self.units(x, level, 2, f"input{i}") for i, x in enumerate(inputs)]
        h = inputs[0]
        if len(inputs) > 1:
            first, second = (self[f"fuse{i}"](self[f"fuse{i}_norm"](x, level)) for i, x in enumerate(inputs))
            same = first.shape == second.shape
            h = first + (second if same else F.interpolate(second, first.shape[2:], mode="bilinear"))
        h = pooled = F.elu(h)
        for i in range(2):
            pooled = self[f"pool{i}"](F.avg_pool2d(self[f"pool{i}_norm"](pooled, level), 5, 1, 2))
            h = h + pooled
        return self.units(h, level, self.output_units, "output")


class RefineNet(nn.ModuleDict):
    """(images, whole level [batch]) -> scores."""

    def __init__(self, colours: int, channels: int, multipliers: tuple[int, ...], blocks: int, levels: int):
        super().__init__({"conv_in": conv3(colours, channels)})
        widths = [channels * multiplier for multiplier in multipliers]
        width = channels
        for stage, out in enumerate(widths):
            for i in range(blocks):
                down, dilation = stage > 0 and i == 0, 2 ** max(0, stage - 1)
                self[f"stage{stage}_block{i}"] = RefineNetBlock(width, out, down, dilation, levels)
                width = out
        for stage in reversed(range(len(widths))):
            last = stage == len(widths) - 1
            inputs = [widths[stage]] if last else [widths[stage], width]
            width = widths[stage] if last else widths[max(stage - 1, 0)]
            self[f"refine{stage}"] = RefineBlock(inputs, width, 3 if stage == 0 else 1, levels)
        self.update({"norm_out": InstanceNormPlus(width, levels), "conv_out": conv3(width, colours)})
        self.stages, self.blocks = len(widths), blocks

    def forward(self, x, level):
        h = self["conv_in"](nchw(x))
        features = []
        for stage in range(self.stages):
            for i in range(self.blocks):
                h = self[f"stage{stage}_block{i}"](h, level)
            features.append(h)
        h = self[f"refine{self.stages - 1}"](features[-1:], level)
        for stage in reversed(range(self.stages - 1)):
            h = self[f"refine{stage}"]([features[stage], h], level)
        return nhwc(self["conv_out"](F.elu(self["norm_out"](h, level)))).float()
