"""Noise-conditional score networks (Song & Ermon 2019, https://arxiv.org/abs/1907.05600; NCSNv2: Song & Ermon 2020,
https://arxiv.org/abs/2006.09011).

Images are seen under noise of L levels, x_t = x0 + sigma_t eps, with sigma_1 < ... < sigma_L a geometric sequence. (The papers
count the other way; here as everywhere in this package t grows from data to noise, and t = 0 is the clean image.) A network
s(x_t, t) learns the score, the gradient of log q(x_t), by denoising score matching, weighted by sigma^2 (2019, eq. 5-6):

    loss = E_t E_eps 1/2 sigma_t^2 ||s(x_t, t) + eps / sigma_t||^2,    t uniform on 1..L.

Since E[x0 | x_t] = x_t + sigma_t^2 s(x_t, t), a score is a denoiser, and every sampler of `gm_jax.diffusion` will do. That of
the papers is annealed Langevin dynamics (`diffusion.langevin`, which states the convention of epsilon).

Options tell NCSN from NCSNv2, whose score is the network's output over sigma, the network itself not being told the level.
Pixels are in [-1, 1], the papers' in [0, 1]: here sigmas are twice, epsilons four times what they say.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.core import Batch, Diffusion, Images, Key, Model, Objective, Variables
from gm_jax.diffusion import samplers
from gm_jax.diffusion.langevin import annealed_langevin, consistent_epsilon
from gm_jax.diffusion.paths import Denoiser, Path, Time, add_noise, coefficients, geometric_path, to_x0
from gm_jax.errors import InputError
from gm_jax.nets.refinenet import RefineNet
from gm_jax.nets.unet import UNet, check_divisible, fitting_multipliers

PAPER_MULTIPLIERS = (1, 2, 2, 2)  # of the CIFAR-10 networks of both papers, and of DDPM's U-Net


def denoising_score_matching(
    path: Path, score: Callable[[Images, Time], Images], x0: Images, t: Time, eps: Images
) -> Float[Array, " batch"]:
    """sigma_t^2 times the loss of eq. 5 (2019): each image's 1/2 ||sigma_t s(x_t, t) + eps||^2, summed over pixels.

    `eps` is standard normal; `t` in 1..L, one per image. Half the number of pixels is what a score of zero costs.
    """
    sigma = coefficients(path, t, x0).sigma
    error = sigma * score(add_noise(path, x0, eps, t), t) + eps
    return 0.5 * jnp.sum(error**2, axis=tuple(range(1, x0.ndim)))


def make(
    image_shape: tuple[int, int, int],
    dtype: Any = jnp.float32,
    *,
    sigma_max: float = 2.0,
    sigma_min: float = 0.02,
    levels: int = 10,
    epsilon: float = 8e-5,
    inner_steps: int = 100,
    start: str = "uniform",
    denoise: bool = False,
    network: str = "refinenet",
    conditional: bool = True,
    divide_by_sigma: bool = False,
    channels: int = 128,
    channel_multipliers: tuple[int, ...] = (),
    num_res_blocks: int = 2,
    attention_resolutions: tuple[int, ...] = (),
    dropout: float = 0.0,
) -> Model:
    """NCSN on images of `image_shape`; the defaults are the CIFAR-10 model of Song & Ermon 2019.

    Args:
      sigma_max, sigma_min, levels: the noise levels, a geometric sequence.
      epsilon, inner_steps, start, denoise: of annealed Langevin dynamics, see `diffusion.langevin.annealed_langevin`; epsilon 0
        is NCSNv2's choice for these levels and inner_steps (`consistent_epsilon`).
      network: "refinenet" or "unet" (that of DDPM).
      conditional: tell the network the level. NCSNv2: False.
      divide_by_sigma: the score is the network's output divided by sigma_t. NCSNv2: True.
      channel_multipliers: (): (1, 2, 2, 2), for a U-Net as many of them as the image can be halved for.
      channels, num_res_blocks: see `nets.refinenet.RefineNet` and `nets.unet.UNet`.
      attention_resolutions, dropout: of the U-Net; the RefineNet has neither.

    The model samples with the options `sampler` ("langevin", the default; "ancestral", "ddim", "euler", "heun"), `steps` (None:
    one a level), `spacing` (see `paths.grid`; "nodes"), and the sampler's own: epsilon, inner_steps, start and denoise of
    langevin, eta of ddim, variance of ancestral.
    """
    if network not in NETWORKS:
        raise InputError(f"unknown network {network!r}; choose {', '.join(NETWORKS)}")
    path = geometric_path(sigma_min, sigma_max, levels)
    net = NETWORKS[network](
        image_shape,
        num_levels=levels if conditional else None,
        channel_multipliers=tuple(channel_multipliers),
        attention_resolutions=tuple(attention_resolutions),
        dropout=dropout,
        channels=channels,
        num_res_blocks=num_res_blocks,
        out_channels=image_shape[-1],
        dtype=dtype,
    )
    langevin = partial(
        annealed_langevin,
        epsilon=epsilon or consistent_epsilon(sigma_min, (sigma_max / sigma_min) ** (1 / (levels - 1)), inner_steps),
        inner_steps=inner_steps,
        start=start,
        denoise=denoise,
    )

    def plan(sampler="langevin", steps=None, spacing="nodes", **options) -> samplers.Plan:
        choices = samplers.SAMPLERS | {"langevin": langevin}
        try:
            return samplers.plan(path, choices, sampler, levels if steps is None else steps, spacing, **options)
        except ValueError as error:
            raise InputError(f"sampling NCSN: {error}") from None

    plan()  # so that an impossible epsilon or start is known before training

    def init(key: Key, batch: Batch) -> Variables:
        return Variables({"score": net.init(key, batch.x[:1], jnp.zeros(1))["params"]})

    def score_network(params, **kwargs):
        def score(x_t, t):
            level = t - 1 if conditional else jnp.zeros_like(t)
            output = net.apply({"params": params["score"]}, x_t, level, **kwargs)
            return output / coefficients(path, t, x_t).sigma if divide_by_sigma else output

        return score

    def loss(params, state, key, batch: Batch, *, step, train):
        t_keys, eps_keys = samplers.split_each(batch.keys)
        t = jax.vmap(lambda k: jax.random.randint(k, (), 1, levels + 1))(t_keys).astype(jnp.float32)
        score = score_network(params, train=train, rngs={"dropout": key})
        dsm = denoising_score_matching(path, score, batch.x, t, samplers.normal(eps_keys, image_shape)).mean()
        return dsm, (state, {"dsm": dsm})

    def denoiser(variables: Variables, labels=None) -> Denoiser:
        if labels is not None:
            raise InputError("this NCSN is unconditional; sample it without labels")
        score = score_network(variables.params)
        return lambda x_t, t: to_x0(path, "score", score(x_t, t), x_t, t)

    def trajectory(variables, keys, labels=None, *, frames, **options):
        sampler, times, _ = plan(**options)
        initial_keys, step_keys = samplers.split_each(keys)
        x_L = samplers.initial_noise(path, initial_keys, image_shape)
        return samplers.simulate(step_keys, sampler(path, denoiser(variables, labels)), x_L, times, frames)

    return Model(
        init=init,
        objectives=(Objective("ncsn", loss),),
        sample=partial(trajectory, frames=None),
        trajectory=trajectory,
        nfe=lambda **options: plan(**options).nfe,
        diffusion=Diffusion(path, denoiser),
    )


def _refinenet(image_shape, *, channel_multipliers, attention_resolutions, dropout, **settings) -> RefineNet:
    if attention_resolutions or dropout:
        raise InputError("a RefineNet has neither attention_resolutions nor dropout; leave them out or take network=unet")
    channel_multipliers = channel_multipliers or PAPER_MULTIPLIERS
    check_divisible(image_shape[:2], channel_multipliers[:2])  # it halves the image once
    return RefineNet(channel_multipliers=channel_multipliers, **settings)


def _unet(image_shape, *, channel_multipliers, num_levels, **settings) -> UNet:
    channel_multipliers = channel_multipliers or fitting_multipliers(image_shape[:2], PAPER_MULTIPLIERS)
    check_divisible(image_shape[:2], channel_multipliers)
    return UNet(channel_multipliers=channel_multipliers, **settings)


NETWORKS = {"refinenet": _refinenet, "unet": _unet}
