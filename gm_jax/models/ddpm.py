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

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.conditioning import classes_of
from gm_jax.core import Images, Key, Likelihood, Model, Network, Objective, streams
from gm_jax.denoising import denoising_model, known_labels, make_predictor, model_of, training_inputs
from gm_jax.diffusion import losses, plans, resampling, samplers
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.likelihood import term, variational_bound
from gm_jax.diffusion.paths import Denoiser, Path, Time, add_noise, discrete_path
from gm_jax.diffusion.predictions import Prediction, named, to_x0
from gm_jax.errors import InputError
from gm_jax.nets.backbones import backbone
from gm_jax.nets.unet import AttentionBlock, SinusoidalPositionEmbeddings, UNet
from gm_jax.settings import Count, Decay, Section, at_least, checked

Terms = Annotated[int, at_least(2)]

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
    return losses.denoising_loss(path, prediction, predict, x0, t, eps)


def p_sample(
    path: Path, denoiser: Denoiser, keys: Key, x_t: Images, t: Float[Array, ""], variance: str = "fixed_large"
) -> Images:
    """x_{t-1} ~ p(x_{t-1} | x_t), one step of algorithm 2; without noise at t = 1. One key per image, scalar `t`."""
    return samplers.ancestral(path, denoiser, variance).step(keys, x_t, (), t, t - 1)[0]


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
      times: decreasing, such as `grids.time_grid(path, 50, "nodes")`; None for T, T-1, ..., 0.
      frames: keep so many evenly spaced x_t (at most one a step), the last being the images: [frames, n, ...], not [n, ...].
    """
    times = time_grid(path, int(path.t_max), "nodes") if times is None else times
    start_keys, step_keys = streams(keys, "start", "steps")
    x_T = samplers.initial_noise(path, start_keys, image_shape, times[0])
    return samplers.simulate(step_keys, sampler(path, denoiser), x_T, times, frames)


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    *,
    network: Section("network") = {"name": "unet"},  # noqa: B006 (read only)
    timesteps: Count = 1000,
    schedule: Literal["linear", "cosine"] = "linear",
    prediction: Literal["eps", "x0", "v"] = "eps",
    variance: Literal["fixed_large", "fixed_small", "learned"] = "fixed_large",
    objective: Literal["simple", "hybrid", "vlb"] = "simple",
    weight: Literal["none", "min_snr", "p2"] = "none",
    clip_x0: bool = True,
    class_conditional: bool = False,
    label_dropout: Decay = 0.1,
) -> Model:
    """DDPM on images of `image_shape`, or on points; the defaults are the paper's CIFAR-10 model.

    Args:
      network: see `nets.backbones`; by default told the paper's step, t - 1.
      timesteps, schedule: see `get_beta_schedule`.
      prediction: what the network tells. The loss is the mean squared error in it.
      variance: of the reverse steps, "fixed_large" (beta), "fixed_small" (beta-tilde) or, of images, "learned" between them.
      objective: "simple" (L_simple), or, where the variance is learned, "hybrid" (and 0.001 L_vlb) or "vlb" (L_vlb alone, its
        steps drawn by `diffusion.resampling`).
      weight: of L_simple, see `losses.min_snr` and `losses.p2`.
      axis_name: over which "vlb" gathers the losses of the batch.
      clip_x0: clip the estimate of x0 to [-1, 1] at every step, in sampling and in the bound; points are not clipped.
      class_conditional, label_dropout: tell the network the label, but for this share of the batch (Ho & Salimans 2022).

    Sampling options: `sampling.sampling_of`; by default T steps of "ancestral", which asks a guided network of learned variance
    once more. The likelihood "variational_bound", of images, takes `terms` and `full` (see `likelihood.variational_bound`).
    Raises InputError for settings that do not fit.
    """
    learned = variance == "learned"
    if learned != (objective != "simple") or (learned and len(image_shape) != 3) or (objective == "vlb" and weight != "none"):
        raise InputError(
            f"variance={variance}, objective={objective} and weight={weight} do not fit together: a learned variance is one of "
            "images, and needs the objective hybrid or vlb, which need it; vlb has no weight"
        )
    path, classes = discrete_path(get_beta_schedule(schedule, timesteps)), classes_of(num_classes, class_conditional)
    weights = WEIGHTS[weight](prediction)
    sampled = {
        "sampling": {"sampler": "ancestral", "steps": timesteps, "spacing": "nodes"},
        "num_classes": classes,
        "label_dropout": label_dropout,
        "clip_x0": clip_x0,
        "ode_spacing": "quadratic",
    }
    if learned:
        net = backbone(network, image_shape, dtype, num_classes=classes, out_channels=2 * image_shape[-1])
        return improved(image_shape, path, net, prediction, objective, weights, axis_name, **sampled)

    def likelihoods(estimate):
        bound = partial(_bound, path, estimate, variance=variance)
        return (Likelihood("variational_bound", "bound", bound),) if len(image_shape) == 3 else ()

    return denoising_model(
        "ddpm",
        image_shape,
        path,
        backbone(network, image_shape, dtype, num_classes=classes),
        prediction,
        losses.nodes(path),
        clock="index",
        term=f"{prediction}_mse",
        weight=weights,
        choices=plans.SAMPLERS | {"ancestral": partial(samplers.ancestral, variance=variance)},
        likelihoods=likelihoods,
        **sampled,
    )


WEIGHTS = {"none": lambda prediction: None, "min_snr": losses.min_snr, "p2": losses.p2}


def _bound(path, estimate, variables, keys, images, labels=None, *, terms: Terms = 20, full: bool = False, **variance):
    denoiser = estimate(variables, keys, labels)
    return variational_bound(path, denoiser, keys, images, terms=terms, full=full, **variance)


# --- learned variances --------------------------------------------------------------------------------------------------------


def improved(
    image_shape: tuple[int, ...],
    path: Path,
    network: Network,
    prediction: str,
    objective: str,
    weight: losses.Weight | None = None,
    axis_name: str | None = None,
    **sampled: Any,
) -> Model:
    """Improved DDPM (Nichol & Dhariwal 2021, https://arxiv.org/abs/2102.09672): the network tells the variance, too.

    It answers 2C numbers a pixel: the prediction, and v in about [-1, 1], where (v + 1) / 2 of the logarithm of the variance is
    that of beta and the rest that of beta-tilde (eq. 15). The bound L_vlb is in bits/dim, all T steps of it:

        L_hybrid = L_simple + 0.001 L_vlb,    in which L_vlb moves the variance only.                                   (eq. 16)
    """
    base, pixels, T = named(prediction), math.prod(image_shape), int(path.t_max)
    first = Prediction(base.target, lambda answer, x_t, c: base.x0(halves(answer)[0], x_t, c))
    labels_of = {name: sampled[name] for name in ("num_classes", "label_dropout")}
    predictor = make_predictor(path, network, first, "index", sampled["num_classes"])

    def share_of(params, labels, **training):
        ask = predictor.answer(params["network"], labels, **training)
        return lambda x_t, t: (halves(ask(x_t, t))[1] + 1) / 2

    def loss(params, state, key, batch, *, step, train):
        x, labels, _, eps = training_inputs(batch, train, **labels_of)
        (time_keys,) = streams(batch.keys, "time")
        t, importance = jax.vmap(losses.nodes(path))(time_keys), 1.0
        if objective == "vlb":
            t, importance = resampling.draw(resampling.History(**state), time_keys)
            t = t.astype(x.dtype)
        x_t = q_sample(path, x, t, eps)
        answer = predictor.answer(params["network"], labels, train=train, key=key)(x_t, t)
        ours, v = halves(answer)
        x0 = to_x0(path, base, ours if objective == "vlb" else jax.lax.stop_gradient(ours), x_t, t)
        images = jnp.round((x + 1) * 127.5).astype(jnp.uint8)
        vlb = T * term(path, images, t, x0, share=(v + 1) / 2) / (pixels * math.log(2))
        if objective == "vlb":
            history = resampling.record(resampling.History(**state), t.astype(jnp.int32), vlb, axis_name)
            value = (importance * vlb).mean()
            return value, (jax.lax.stop_gradient(history._asdict()) if train else state, {"vlb": value})
        simple = losses.denoising_loss(path, base, lambda x_t, t: ours, x, t, eps, weight).mean()
        return simple + 0.001 * vlb.mean(), (state, {f"{prediction}_mse": simple, "vlb": vlb.mean()})

    known = partial(known_labels, num_classes=sampled["num_classes"], taught_marginal=bool(sampled["label_dropout"]))

    def ancestral(variables, keys, labels):
        return partial(samplers.learned_ancestral, share_of=share_of(variables.params, known(keys, labels)))

    def likelihoods(estimate):
        def bound(variables, keys, images, labels=None, *, terms: Terms = 20, full: bool = False):
            share = share_of(variables.params, known(keys, labels))
            return _bound(path, estimate, variables, keys, images, labels, terms=terms, full=full, share_of=share)

        return (Likelihood("variational_bound", "bound", bound),)

    return model_of(
        "ddpm",
        image_shape,
        path,
        predictor,
        (Objective("ddpm", loss),),
        state=resampling.empty(T)._asdict() if objective == "vlb" else {},
        choices=plans.SAMPLERS | {"ancestral": lambda path, denoiser: samplers.ancestral(path, denoiser)},
        of_model={"ancestral": ancestral},
        likelihoods=likelihoods,
        **sampled,
    )


def halves(answer: Float[Array, "batch height width 2*channel"]) -> tuple[Images, Images]:
    """What a network of learned variance answers: the prediction, and v."""
    return tuple(jnp.split(answer, 2, axis=-1))
