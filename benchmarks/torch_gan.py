"""SN-GAN's players in PyTorch, with the submodules' names of `gm_jax.nets.gan_nets`, by which parameters are copied."""

from typing import Any

from benchmarks.measure import torch_or_exit

torch = torch_or_exit()
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.utils.parametrizations import spectral_norm  # noqa: E402


class Generator(nn.Module):
    """z [b, latent] -> images [b, 3, 32, 32] in [-1, 1]."""

    def __init__(self, latent=128, channels=256, blocks=3):
        super().__init__()
        self.channels, self.blocks = channels, blocks
        self.layers = nn.ModuleDict({"in": nn.Linear(latent, 16 * channels)})
        for i in range(blocks):
            self.layers[f"block{i}_norm0"] = nn.BatchNorm2d(channels)
            self.layers[f"block{i}_conv0"] = nn.Conv2d(channels, channels, 3, padding=1)
            self.layers[f"block{i}_norm1"] = nn.BatchNorm2d(channels)
            self.layers[f"block{i}_conv1"] = nn.Conv2d(channels, channels, 3, padding=1)
            self.layers[f"block{i}_skip"] = nn.Conv2d(channels, channels, 1)
        self.layers["out_norm"] = nn.BatchNorm2d(channels)
        self.layers["out"] = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z):
        net = self.layers
        x = net["in"](z).view(len(z), 4, 4, self.channels).permute(0, 3, 1, 2)
        for i in range(self.blocks):
            h = F.interpolate(F.relu(net[f"block{i}_norm0"](x)), scale_factor=2)
            h = F.relu(net[f"block{i}_norm1"](net[f"block{i}_conv0"](h)))
            x = net[f"block{i}_conv1"](h) + F.interpolate(net[f"block{i}_skip"](x), scale_factor=2)
        return torch.tanh(net["out"](F.relu(net["out_norm"](x))))


class Critic(nn.Module):
    """Images -> scores [b]; every layer under spectral norm, whose vectors move in every pass."""

    def __init__(self, channels=128, blocks=4, halvings=2):
        super().__init__()
        self.blocks, self.halvings, self.layers = blocks, halvings, nn.ModuleDict()
        for i in range(blocks):
            inputs = channels if i else 3
            self.layers[f"block{i}_conv0"] = nn.Conv2d(inputs, channels, 3, padding=1)
            self.layers[f"block{i}_conv1"] = nn.Conv2d(channels, channels, 3, padding=1)
            if i < halvings:
                self.layers[f"block{i}_skip"] = nn.Conv2d(inputs, channels, 1)
        self.layers["score"] = nn.Linear(channels, 1)

    def normalized(self) -> "Critic":
        """With spectral norms, once its parameters are set."""
        for layer in self.layers.values():
            spectral_norm(layer)
        return self

    def forward(self, x):
        net = self.layers
        for i in range(self.blocks):
            h = net[f"block{i}_conv1"](F.relu(net[f"block{i}_conv0"](F.relu(x) if i else x)))
            if i < self.halvings:
                h, x = F.avg_pool2d(h, 2), net[f"block{i}_skip"](F.avg_pool2d(x, 2))
            x = h + x
        return net["score"](F.relu(x).sum((2, 3)))[:, 0]


def load(module: nn.Module, params: Any) -> None:
    """Copies Flax parameters of the same names."""
    for name, layer in module.layers.items():
        leaves = params[name].get("norm", params[name])
        weight = torch.tensor(leaves.get("kernel", leaves.get("scale")).__array__())
        layer.weight.data.copy_(weight.permute(3, 2, 0, 1) if weight.ndim == 4 else weight.T if weight.ndim == 2 else weight)
        layer.bias.data.copy_(torch.tensor(leaves["bias"].__array__()))
