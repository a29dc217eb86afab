"""The network of VDVAE (Child 2021, figure 3): bottom-up from the image, and top-down through groups of latents.

Residual bottleneck blocks at a few resolutions, the finest first, without normalisation and without strides:

  bottom-up   each resolution has so many blocks, the last of which ends in average pooling down to the next one. What the
              resolution had before is its `features`.
  top-down    from the coarsest resolution to the finest. Each starts from a learnt map, to which the first block adds the
              coarser resolution, enlarged. Every block has a group of latents z: a diagonal Gaussian prior, p(z | groups
              before), of what is there so far; a posterior, q(z | groups before, x), of that and the features; and adds z.

Latents are kept in units of their prior, eps = (z - prior's mean) / prior's sigma, coarse groups first, flat: so p(eps) is
N(0, I), whatever the image. KL and ratios of densities are the same in these units.

With its defaults it has 43 groups and, on 32x32x3 images, 39,145,700 parameters, as in the authors' code. 1x1 convolutions are
`Dense`.
"""

import itertools
import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gm_jax.core import DiagonalGaussian
from gm_jax.errors import InputError
from gm_jax.nets.unet import FeatureMap, conv, dense

zeros = nn.initializers.zeros
SMALLEST_OF_3x3 = 3  # pixels: coarser maps have 1x1 convolutions in the place of 3x3 ones


def uniform_fan_in(scale: float = 1.0) -> nn.initializers.Initializer:
    """Uniform within scale / sqrt(fan in): PyTorch's own for convolutions, times `scale`."""
    return nn.initializers.variance_scaling(scale**2 / 3, "fan_in", "uniform")


class Bottleneck(nn.Module):
    """Four convolutions, 1x1, 3x3, 3x3 and 1x1, each of the GELU of what it gets (figure 3). `last`: the last one's weights."""

    out_channels: int
    hidden_channels: int
    last: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: FeatureMap) -> FeatureMap:
        middle = conv if x.shape[1] >= SMALLEST_OF_3x3 else dense
        hidden, init = self.hidden_channels, uniform_fan_in()
        layers = [
            dense(hidden, self.dtype, init, name="in"),
            middle(hidden, self.dtype, kernel_init=init, name="middle0"),
            middle(hidden, self.dtype, kernel_init=init, name="middle1"),
            dense(self.out_channels, self.dtype, self.last, name="out"),
        ]
        for layer in layers:
            x = layer(nn.gelu(x, approximate=False))
        return x


class TopDownBlock(nn.Module):
    """One group of latents: (x, features, noise) -> (x, q(eps | x, image)), or without features (x, None, eps) -> (x, None).

    depth: the number of groups; what a block adds starts sqrt(depth) times as small as it would. The prior starts
    as N(0, I). What latents are computed of is float32.
    """

    channels: int
    hidden_channels: int
    latent_channels: int
    depth: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: FeatureMap, features: FeatureMap | None, noise: Float[Array, "batch height width latent"]
    ) -> tuple[FeatureMap, DiagonalGaussian | None]:
        latent, smaller = self.latent_channels, uniform_fan_in(1 / math.sqrt(self.depth))

        def bottleneck(name, x, channels, last):
            return Bottleneck(channels, self.hidden_channels, last, self.dtype, name=name)(x)

        prior, update = jnp.split(bottleneck("prior", x, 2 * latent + self.channels, zeros), [2 * latent], axis=-1)
        mean, log_sigma = jnp.split(prior.astype(jnp.float32), 2, axis=-1)
        eps, posterior = noise, None
        if features is not None:
            seen = jnp.concatenate([x, features], axis=-1)
            answer = bottleneck("posterior", seen, 2 * latent, uniform_fan_in()).astype(jnp.float32)
            q_mean, q_log_sigma = jnp.split(answer, 2, axis=-1)
            posterior = DiagonalGaussian((q_mean - mean) * jnp.exp(-log_sigma), 2 * (q_log_sigma - log_sigma))
            eps = posterior.mean + jnp.exp(posterior.logvar / 2) * noise
        z = (mean + jnp.exp(log_sigma) * eps).astype(self.dtype)
        x = x + update + dense(self.channels, self.dtype, smaller, name="latent")(z)
        return x + bottleneck("residual", x, self.channels, smaller), posterior


class VDVAENetwork(nn.Module):
    """(noise [b, latents], image [b,H,W,C]) -> (`out_channels` numbers a pixel, posterior of eps), or (eps) -> (numbers, None).

    With an image eps is the posterior's mean + sigma * noise, group by group; the posterior is flat, [b, latents].

    resolutions: of the maps, the image's own first; each is divided by the next. encoder_blocks, decoder_blocks: at each of
    them. hidden_channels: of the bottlenecks. latent_channels: of a group. image_mean, image_std: the network sees
    (image - mean) / std. Weights are float32; `dtype` is that of the computation, but for the first and the last layer.
    """

    out_channels: int
    resolutions: tuple[int, ...] = (32, 16, 8, 4, 1)
    encoder_blocks: tuple[int, ...] = (12, 7, 7, 4, 3)
    decoder_blocks: tuple[int, ...] = (22, 11, 6, 3, 1)
    channels: int = 384
    hidden_channels: int = 96
    latent_channels: int = 16
    image_mean: float = 0.0
    image_std: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, noise: Float[Array, "batch latents"], image: FeatureMap | None = None
    ) -> tuple[FeatureMap, DiagonalGaussian | None]:
        features = [None] * len(self.resolutions) if image is None else self.bottom_up(image)
        depth, groups, posteriors, x = sum(self.decoder_blocks), iter(self.groups(noise)), [], None
        for resolution, count, seen in zip(self.resolutions[::-1], self.decoder_blocks[::-1], features[::-1], strict=True):
            start = self.param(f"start{resolution}", zeros, (resolution, resolution, self.channels))
            start = jnp.broadcast_to(start.astype(self.dtype), (len(noise), *start.shape))
            x = start if x is None else start + enlarged(x, resolution)
            for i in range(count):
                sizes = self.channels, self.hidden_channels, self.latent_channels, depth, self.dtype
                x, posterior = TopDownBlock(*sizes, name=f"decoder{resolution}_{i}")(x, seen, next(groups))
                posteriors.append(posterior)
        x = x.astype(jnp.float32)
        x = x * self.param("scale", nn.initializers.ones, (self.channels,)) + self.param("bias", zeros, (self.channels,))
        answer = dense(self.out_channels, jnp.float32, uniform_fan_in(), name="pixels")(x)
        return answer, None if image is None else DiagonalGaussian(*map(flat, zip(*posteriors, strict=True)))

    def bottom_up(self, image: FeatureMap) -> list[FeatureMap]:
        """The features of each resolution."""
        last, features = uniform_fan_in(1 / math.sqrt(sum(self.encoder_blocks))), []
        seen = (image - self.image_mean) / self.image_std
        x = conv(self.channels, kernel_init=uniform_fan_in(), name="image")(seen).astype(self.dtype)
        for level, (resolution, count) in enumerate(zip(self.resolutions, self.encoder_blocks, strict=True)):
            for i in range(count):
                if i == count - 1 and level < len(self.resolutions) - 1:
                    features.append(x)
                sizes = self.channels, self.hidden_channels, last, self.dtype
                x = x + Bottleneck(*sizes, name=f"encoder{resolution}_{i}")(x)
            if level < len(self.resolutions) - 1:
                rate = (resolution // self.resolutions[level + 1],) * 2
                x = nn.avg_pool(x, rate, rate)
        return [*features, x]

    def groups(self, latents: Float[Array, "batch latents"]) -> list[Float[Array, "batch height width latent"]]:
        """The latents of each group, coarse ones first. Raises InputError for any other number of them."""
        if latents.shape[1:] != (self.latents,):
            raise InputError(f"this model's latents are [n, {self.latents}], not {list(latents.shape)}")
        parts = jnp.split(latents, list(itertools.accumulate(map(math.prod, self.shapes)))[:-1], axis=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """Of each group of latents, coarse ones first."""
        counts = zip(self.resolutions[::-1], self.decoder_blocks[::-1], strict=True)
        return [(resolution, resolution, self.latent_channels) for resolution, count in counts for _ in range(count)]

    @property
    def latents(self) -> int:
        """How many numbers all groups have."""
        return sum(map(math.prod, self.shapes))


def enlarged(x: FeatureMap, resolution: int) -> FeatureMap:
    """To so many rows and columns, by repeating pixels."""
    times = resolution // x.shape[1]
    return x.repeat(times, axis=1).repeat(times, axis=2)


def flat(groups: list[FeatureMap]) -> Float[Array, "batch latents"]:
    return jnp.concatenate([group.reshape(len(group), -1) for group in groups], axis=1)


def check_resolutions(size: tuple[int, ...], resolutions: tuple[int, ...], *blocks: tuple[int, ...]) -> None:
    """Raises InputError for maps that do not start at the image's size or cannot be pooled, and for other numbers of blocks."""
    if size != (resolutions[0],) * 2:
        raise InputError(f"images of {'x'.join(map(str, size))} need square maps of their own size first, not {resolutions[0]}")
    for fine, coarse in itertools.pairwise(resolutions):
        if fine % coarse or fine == coarse:
            raise InputError(f"a resolution of {fine} cannot be pooled to {coarse}: each must be a multiple of the next")
    for counts in blocks:
        if len(counts) != len(resolutions):
            raise InputError(f"{len(counts)} numbers of blocks for {len(resolutions)} resolutions; give one for each")
