"""Denoising Diffusion Probabilistic Models (Ho, Jain & Abbeel 2020, https://arxiv.org/abs/2006.11239).

A chain of T steps turns an image x0 into noise, q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I), so that any x_t
can be drawn at once (eq. 4):

    x_t = alpha_t x0 + sigma_t eps,    alpha_t = sqrt(prod_{s<=t} (1 - beta_s)),    sigma_t^2 = 1 - alpha_t^2.

A U-Net learns to tell eps from (x_t, t) by mean squared error (eq. 14, "L_simple"; Salimans & Ho 2022 for x0 and v instead
of eps). That gives an estimate of x0, with which the chain is run backwards (eq. 7) by any sampler of `gm_jax.diffusion`:

    p(x_{t-1} | x_t) = N(mean of q(x_{t-1} | x_t, x0), beta_t I or beta-tilde_t I).

The functions below are independent of the network: `predict` and `denoiser` are any functions of (x_t, t). Times are t =
1..T with t = 0 the clean image; images are float in [-1, 1].
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from gm_jax.core import Batch, Diffusion, Images, Key, Likelihood, Model, Objective, Variables
from gm_jax.diffusion import samplers
from gm_jax.diffusion.bound import variational_bound
from gm_jax.diffusion.paths import Denoiser, Path, Time, add_noise, discrete_path, grid, target, to_x0
from gm_jax.errors import InputError
from gm_jax.nets.unet import AttentionBlock, SinusoidalPositionEmbeddings, UNet, check_divisible, fitting_multipliers

__all__ = [
    "AttentionBlock",
    "SinusoidalPositionEmbeddings",
    "UNet",
    "get_beta_schedule",
    "make",
    "p_losses",
    "p_sample",
    "q_sample",
    "sample",
]


PAPER_MULTIPLIERS = (1, 2, 2, 2)  # of the CIFAR-10 network; appendix B


def get_beta_schedule(name: str, timesteps: int) -> Float[np.ndarray, " timesteps"]:
    """The variances beta_1..beta_T of the forward steps, in float64.

    "linear": from 1e-4 to 0.02 for T = 1000 (Ho et al. 2020, section 4), times 1000 / T for another T, so that the chain
    always ends in noise. "cosine": alpha-bar = cos^2((t/T + 0.008) / 1.008 * pi/2), betas at most 0.999 (Nichol & Dhariwal
    2021, eq. 17). Raises InputError for another name, and for so few steps that a beta would not be below 1.
    """
    fewest = {"linear": 21, "cosine": 2}
    if name not in fewest:
        raise InputError(f"unknown noise schedule {name!r}; choose linear or cosine")
    if timesteps < fewest[name]:
        raise InputError(f"the {name} schedule cannot have {timesteps} timesteps; take {fewest[name]} or more")
    if name == "linear":
        return np.linspace(1e-4, 0.02, timesteps) * (1000 / timesteps)
    t = np.linspace(0, 1, timesteps + 1)
    alpha_bar = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def q_sample(path: Path, x0: Images, t: Time, eps: Images) -> Images:
    """x_t ~ q(x_t | x0) for standard normal `eps` (eq. 4). `t` in [0, T], a scalar or one per image."""
    return add_noise(path, x0, eps, t)


def p_losses(
    path: Path, predict: Callable[[Images, Time], Images], x0: Images, t: Time, eps: Images, prediction: str = "eps"
) -> Float[Array, " batch"]:
    """L_simple (eq. 14): each image's mean squared error of predict(x_t, t) against eps, x0 or v, averaged over pixels."""
    error = predict(q_sample(path, x0, t, eps), t) - target(path, prediction, x0, eps, t)
    return jnp.mean(error**2, axis=tuple(range(1, x0.ndim)))


def p_sample(
    path: Path, denoiser: Denoiser, keys: Key, x_t: Images, t: Float[Array, ""], variance: str = "fixed_large"
) -> Images:
    """x_{t-1} ~ p(x_{t-1} | x_t), one step of algorithm 2; without noise at t = 1. One key per image, scalar `t`."""
    return samplers.ancestral(path, denoiser, variance).step(keys, x_t, t, t - 1)


def sample(
    path: Path,
    denoiser: Denoiser,
    keys: Key,
    image_shape: tuple[int, ...],
    *,
    sampler: Callable[[Path, Denoiser], samplers.Sampler] = samplers.ancestral,
    times: Float[Array, " steps+1"] | None = None,
    frames: int | None = None,
) -> Images:
    """One image per key, from noise at t = T to t = 0: algorithm 2, or another sampler and fewer steps.

    Args:
      sampler: such as `samplers.ancestral` or `partial(samplers.ddim, eta=0.5)`.
      times: decreasing, such as `paths.grid(path, 50, "nodes")`; None for T, T-1, ..., 0.
      frames: keep so many evenly spaced x_t (at most one a step), the last being the images: [frames, n, ...], not [n, ...].
    """
    times = grid(path, int(path.t_max), "nodes") if times is None else times
    initial_keys, step_keys = samplers.split_each(keys)
    x_T = samplers.initial_noise(path, initial_keys, image_shape)
    return samplers.simulate(step_keys, sampler(path, denoiser), x_T, times, frames)


def make(
    image_shape: tuple[int, int, int],
    dtype: Any = jnp.float32,
    *,
    timesteps: int = 1000,
    schedule: str = "linear",
    prediction: str = "eps",
    variance: str = "fixed_large",
    clip_x0: bool = True,
    channels: int = 128,
    channel_multipliers: tuple[int, ...] = (),
    num_res_blocks: int = 2,
    attention_resolutions: tuple[int, ...] = (16,),
    dropout: float = 0.1,
    remat: bool = False,
) -> Model:
    """DDPM on images of `image_shape`; the defaults are the paper's CIFAR-10 model.

    Args:
      timesteps, schedule: see `get_beta_schedule`.
      prediction: what the network tells: "eps", "x0" or "v". The loss is the mean squared error in it.
      variance: of the reverse steps, "fixed_large" (beta) or "fixed_small" (beta-tilde).
      clip_x0: clip the estimate of x0 to [-1, 1] at every step, in sampling and in the bound.
      channel_multipliers: one per resolution; (): the paper's (1, 2, 2, 2), or as many of them as the image can be halved for.
      channels, num_res_blocks, attention_resolutions, dropout, remat: see `nets.unet.UNet`.

    The model samples with the options `sampler` ("ancestral", the default; "ddim", "euler", "heun"), `steps` (None: T),
    `spacing` (see `paths.grid`; "nodes"), and the sampler's own (`eta` of ddim, `variance` of ancestral). Its likelihood
    "variational_bound" takes `terms` and `full` (see `bound.variational_bound`).
    """
    if prediction not in ("eps", "x0", "v"):
        raise InputError(f"unknown prediction {prediction!r}; choose eps, x0 or v")
    if variance not in ("fixed_large", "fixed_small"):
        raise InputError(f"unknown variance {variance!r}; choose fixed_large or fixed_small")
    channel_multipliers = tuple(channel_multipliers) or fitting_multipliers(image_shape[:2], PAPER_MULTIPLIERS)
    check_divisible(image_shape[:2], channel_multipliers)
    path = discrete_path(get_beta_schedule(schedule, timesteps))
    net = UNet(
        out_channels=image_shape[-1],
        channels=channels,
        channel_multipliers=channel_multipliers,
        num_res_blocks=num_res_blocks,
        attention_resolutions=tuple(attention_resolutions),
        dropout=dropout,
        remat=remat,
        dtype=dtype,
    )

    choices = samplers.SAMPLERS | {"ancestral": partial(samplers.ancestral, variance=variance)}

    def plan(sampler="ancestral", steps=None, spacing="nodes", **options) -> samplers.Plan:
        try:
            return samplers.plan(path, choices, sampler, timesteps if steps is None else steps, spacing, **options)
        except ValueError as error:
            raise InputError(f"sampling DDPM: {error}") from None

    def init(key: Key, batch: Batch) -> Variables:
        return Variables({"unet": net.init(key, batch.x[:1], jnp.zeros(1))["params"]})

    def predictor(params, **kwargs):
        return lambda x_t, t: net.apply({"params": params["unet"]}, x_t, t - 1, **kwargs)  # the paper's steps are 0..T-1

    def loss(params, state, key, batch: Batch, *, step, train):
        t_keys, eps_keys = samplers.split_each(batch.keys)
        t = jax.vmap(lambda k: jax.random.randint(k, (), 1, timesteps + 1))(t_keys).astype(jnp.float32)
        eps = samplers.normal(eps_keys, image_shape)
        predict = predictor(params, train=train, rngs={"dropout": key})
        mse = p_losses(path, predict, batch.x, t, eps, prediction).mean()
        return mse, (state, {f"{prediction}_mse": mse})

    def denoiser(variables: Variables, labels=None) -> Denoiser:
        if labels is not None:
            raise InputError("this DDPM is unconditional; sample it without labels")
        predict = predictor(variables.params)
        return lambda x_t, t: to_x0(path, prediction, predict(x_t, t), x_t, t)

    def estimate(variables, labels):
        return samplers.clip_x0(denoiser(variables, labels)) if clip_x0 else denoiser(variables, labels)

    def draw(variables, keys, labels=None, **options):
        return trajectory(variables, keys, labels, frames=None, **options)

    def trajectory(variables, keys, labels=None, *, frames, **options):
        sampler, times, _ = plan(**options)
        return sample(path, estimate(variables, labels), keys, image_shape, sampler=sampler, times=times, frames=frames)

    def bound(variables, keys, images, labels=None, *, terms=20, full=False):
        denoise = estimate(variables, labels)
        return variational_bound(path, denoise, keys, images, variance=variance, terms=terms, full=full)

    return Model(
        init=init,
        objectives=(Objective("ddpm", loss),),
        sample=draw,
        trajectory=trajectory,
        nfe=lambda **options: plan(**options).nfe,
        likelihoods=(Likelihood("variational_bound", "bound", bound),),
        diffusion=Diffusion(path, denoiser),
    )
