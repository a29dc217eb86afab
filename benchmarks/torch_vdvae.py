"""VDVAE of `gm_jax.nets.vdvae_nets` as a PyTorch user would write it, and gm_jax's parameters under its names.

The same function and the same parameters; latents are in their own units, not in those of their prior.
"""

from typing import Any

from benchmarks.torch_nets import DEVICE, F, nn, state_dict, torch


class Bottleneck(nn.ModuleDict):
    def __init__(self, channels, hidden, out, resolution):
        kernel = 3 if resolution > 2 else 1
        sizes = {"in": (channels, hidden, 1), "out": (hidden, out, 1)}
        sizes |= {f"middle{i}": (hidden, hidden, kernel) for i in range(2)}
        super().__init__({name: nn.Conv2d(*size, padding=size[2] // 2) for name, size in sizes.items()})

    def forward(self, x):
        for name in ("in", "middle0", "middle1", "out"):
            x = self[name](F.gelu(x))
        return x


class TopDown(nn.ModuleDict):
    """(x, features, noise) -> (x, KL of the group [b])."""

    def __init__(self, channels, hidden, latent, resolution):
        sizes = {"prior": (channels, 2 * latent + channels), "posterior": (2 * channels, 2 * latent)}
        sizes |= {"residual": (channels, channels)}
        super().__init__({name: Bottleneck(size, hidden, out, resolution) for name, (size, out) in sizes.items()})
        self["latent"], self.sizes = nn.Conv2d(latent, channels, 1), (latent, latent, channels)

    def forward(self, x, features, noise):
        mean, log_sigma, update = self["prior"](x).split(self.sizes, 1)
        q_mean, q_log_sigma = self["posterior"](torch.cat([x, features], 1)).chunk(2, 1)
        mean, log_sigma, q_mean, q_log_sigma = (a.float() for a in (mean, log_sigma, q_mean, q_log_sigma))
        z = q_mean + q_log_sigma.exp() * noise
        spread = (2 * q_log_sigma).exp() + (q_mean - mean) ** 2
        kl = log_sigma - q_log_sigma - 0.5 + 0.5 * spread * (-2 * log_sigma).exp()
        x = x + update + self["latent"](z)
        return x + self["residual"](x), kl.sum((1, 2, 3))


class VDVAE(nn.ModuleDict):
    """(noise [b, latents], images [b, 3, H, W] in [-1, 1]) -> (the mixtures' numbers [b, numbers, H, W], KL in nats [b])."""

    def __init__(self, settings, numbers):
        super().__init__()
        self.settings, self.levels = settings, list(zip(settings["resolutions"], settings["decoder_blocks"], strict=True))
        channels, hidden, latent = (settings[f"{name}channels"] for name in ("", "hidden_", "latent_"))
        for resolution, count in zip(settings["resolutions"], settings["encoder_blocks"], strict=True):
            for i in range(count):
                self[f"encoder{resolution}_{i}"] = Bottleneck(channels, hidden, channels, resolution)
        for resolution, count in self.levels:
            for i in range(count):
                self[f"decoder{resolution}_{i}"] = TopDown(channels, hidden, latent, resolution)
        self["image"], self["pixels"] = nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, numbers, 1)
        shapes = {f"start{resolution}": (channels, resolution, resolution) for resolution, _ in self.levels}
        shapes |= dict.fromkeys(("scale", "bias"), (channels, 1, 1))
        self.loose = nn.ParameterDict({name: nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()})

    def forward(self, noise, images):
        seen = self.bottom_up((images - self.settings["image_mean"]) / self.settings["image_std"])
        latent, used, x, rate = self.settings["latent_channels"], 0, None, 0.0
        for (resolution, count), features in zip(self.levels[::-1], seen[::-1], strict=True):
            start = self.loose[f"start{resolution}"]
            x = start.expand_as(features) if x is None else start + F.interpolate(x, size=resolution)
            for i in range(count):
                size = resolution**2 * latent
                part = noise[:, used : used + size].unflatten(1, (resolution, resolution, latent)).permute(0, 3, 1, 2)
                x, kl = self[f"decoder{resolution}_{i}"](x, features, part)
                used, rate = used + size, rate + kl
        with torch.autocast(x.device.type, enabled=False):
            return self["pixels"](x.float() * self.loose["scale"] + self.loose["bias"]), rate

    def bottom_up(self, x):
        x, seen, sizes = self["image"](x), [], self.settings["resolutions"]
        for level, (resolution, count) in enumerate(zip(sizes, self.settings["encoder_blocks"], strict=True)):
            for i in range(count):
                if i == count - 1 and level < len(sizes) - 1:
                    seen.append(x)
                x = x + self[f"encoder{resolution}_{i}"](x)
            if level < len(sizes) - 1:
                x = F.avg_pool2d(x, resolution // sizes[level + 1])
        return [*seen, x]


def distortion(answer: Any, x: Any) -> Any:
    """-log p(x|z) in nats [b], of images [b, 3, H, W] in [-1, 1] and the mixtures' numbers [b, 10 k, H, W]."""
    k = answer.shape[1] // 10
    logits, rest = answer[:, :k], answer[:, k:].unflatten(1, (3, 3, k))
    means, scales, slopes = rest[:, :, 0], rest[:, :, 1].clamp(min=-7), rest[:, :, 2].tanh()
    red, green, blue = (x[:, i, None] for i in range(3))
    mean = [means[:, 0], means[:, 1] + slopes[:, 0] * red, means[:, 2] + slopes[:, 1] * red + slopes[:, 2] * green]
    centred, inverse = torch.stack([red, green, blue], 1) - torch.stack(mean, 1), (-scales).exp()
    below, above = F.logsigmoid((centred + 1 / 255) * inverse), F.logsigmoid((1 / 255 - centred) * inverse)
    inside = below + above + torch.log(-torch.expm1(-2 / 255 * inverse))
    x = x[:, :, None]
    log_probs = torch.where(x < -0.999, below, torch.where(x > 0.999, above, inside)).sum(1)
    return -torch.logsumexp(log_probs + logits.log_softmax(1), 1).sum((1, 2))


def load(net: VDVAE, params: Any) -> VDVAE:
    """`net` in channels_last with a copy of gm_jax's parameters."""
    loose = {name: torch.tensor(params[name].__array__()) for name in net.loose}
    found = state_dict({name: value for name, value in params.items() if name not in net.loose})
    found |= {f"loose.{name}": a.permute(2, 0, 1) if a.ndim == 3 else a for name, a in loose.items()}
    shapes = {name: p.shape for name, p in net.named_parameters()}
    net.load_state_dict({name: a.reshape(shapes[name]) for name, a in found.items()})
    return net.to(DEVICE, memory_format=torch.channels_last)
