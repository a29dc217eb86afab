"""What all noise-based models share: a network becomes a denoiser, a denoiser is trained by one loss, sampled by any sampler.

A paper of this family is a path, a prediction, a distribution of times and a weight (`diffusion.losses` has the table); from
these, `denoising_model` makes its `Model`. One whose loss is another takes `make_predictor` and writes that.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp
from jax import Array

from gm_jax.conditioning import NO_LABEL, check_labels, draw_labels, drop_labels, one_hot
from gm_jax.core import Batch, Diffusion, Key, Labels, Likelihood, Model, Network, Objective, PyTree, Variables, streams
from gm_jax.diffusion import guidance, samplers
from gm_jax.diffusion.losses import DrawTime, Weight, denoising_loss
from gm_jax.diffusion.paths import Denoiser, Path, Time, coefficients, log_snr
from gm_jax.diffusion.predictions import Prediction, named, to_x0
from gm_jax.errors import InputError
from gm_jax.settings import Count, convert

# what a network is told of the time: (path, t) -> number
CLOCKS: dict[str, Callable[[Path, Time], Array]] = {
    "time": lambda path, t: t,
    "index": lambda path, t: t - 1,  # of a discrete path's node, counted from 0
    "none": lambda path, t: jnp.zeros_like(t),
    "log_sigma": lambda path, t: -log_snr(path, t) / 8,  # ln(sigma / alpha) / 4: Karras et al. 2022, table 1
}


class Augmentation(NamedTuple):
    """Alters images and says how. The network is told, and told "not at all" in sampling (Karras et al. 2022, appendix F.2)."""

    apply: Callable[[Key, Array], tuple[Array, Array]]  # (keys, x) -> x', label [batch, size], zero where nothing was done
    size: int


class Predictor(NamedTuple):
    """A network with all that stands between it and a denoiser: its scale, its clock, labels, what augmentation did."""

    init: Callable[[Key, Array], PyTree]  # (key, x) -> params
    answer: Callable[..., Callable]  # (params, labels=None, told=None, **train and key) -> (x_t, t) -> the network's answer
    denoiser: Callable[..., Denoiser]  # (params, labels=None) -> (x_t, t) -> E[x0 | x_t]


def make_predictor(
    path: Path,
    network: Network,
    prediction: str | Prediction,
    clock: str,
    num_classes: int | None = None,
    told_size: int = 0,
) -> Predictor:
    """`clock` is one of CLOCKS, for a network that leaves it to the model.

    The network's condition is [batch, num_classes + told_size]: zeros for the label -1 or no labels, and for no augmentation;
    None where it would have no entries.
    """
    prediction = named(prediction)
    tell = partial(CLOCKS[clock if network.clock == "auto" else network.clock], path)

    def condition(labels: Labels | None, n: int, told: Array | None = None) -> Array | None:
        if num_classes is None and not told_size:
            return None
        parts = [] if num_classes is None else [one_hot(labels, n, num_classes)]
        return jnp.concatenate([*parts, jnp.zeros((n, told_size)) if told is None else told], axis=1)

    def init(key: Key, x: Array) -> PyTree:
        return network.init(key, x[:1], jnp.zeros(1), condition(None, 1))

    def answer(params: PyTree, labels: Labels | None = None, told: Array | None = None, **training: Any) -> Callable:
        def ask(x_t, t):
            seen = x_t if prediction.scale is None else prediction.scale(coefficients(path, t, x_t)) * x_t
            return network.apply(params, seen, tell(t), condition(labels, len(x_t), told), **training)

        return ask

    def denoiser(params: PyTree, labels: Labels | None = None) -> Denoiser:
        ask = answer(params, labels)
        return lambda x_t, t: to_x0(path, prediction, ask(x_t, t), x_t, t)

    return Predictor(init, answer, denoiser)


def typed(sampler: Callable[..., samplers.Sampler] | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of sampling in their proper types, as the sampler's signature has them. Raises InputError for others."""
    function = sampler.func if isinstance(sampler, partial) else sampler
    hints = {"steps": Count, "spacing": str, "sampler": str} | (
        get_type_hints(function, include_extras=True) if function else {}
    )
    return {name: convert(value, hints.get(name, Any), name) for name, value in options.items()}


def denoising_model(
    name: str,
    image_shape: tuple[int, ...],
    path: Path,
    network: Network,
    prediction: str | Prediction,
    draw_time: DrawTime,
    *,
    clock: str,
    sampling: Mapping[str, Any],
    term: str = "mse",
    weight: Weight | None = None,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    augmentation: Augmentation | None = None,
    clip_x0: bool = False,
    choices: Mapping[str, Callable[..., samplers.Sampler]] = samplers.SAMPLERS,
    ode_spacing: str = "karras",
    likelihoods: Callable[[Callable], tuple[Likelihood, ...]] = lambda estimate: (),
) -> Model:
    """The model whose only objective, `name`, is `losses.denoising_loss`.

    Args:
      draw_time: of `diffusion.losses`.
      clock: one of CLOCKS, for a network that leaves it to the model.
      sampling: the defaults of `sampler`, `steps` and `spacing`; ode_spacing: that of samplers.ODE_SOLVERS.
      term: what the loss is called among the metrics.
      num_classes, label_dropout: of a conditional model; the share of training labels that it is not told.
      clip_x0: clip the estimate of x0 to [-1, 1] in every step of sampling and in likelihoods; points are never clipped.
      likelihoods: from `estimate(variables, keys, labels)`, the denoiser that samples are drawn with, to the likelihoods.

    It samples with the options sampler, steps, spacing, times (see `samplers.plan`), those of the sampler, and, if conditional,
    `guidance_scale` (1.0: none, see `guidance.classifier_free`), which needs label dropout in training. A conditional model
    that is given no labels is the marginal one, if label dropout has taught it that, else each example's label is drawn.
    """
    told_size = augmentation.size if augmentation else 0
    predictor = make_predictor(path, network, prediction, clock, num_classes, told_size)
    clip_x0 = clip_x0 and len(image_shape) == 3

    def plan(guidance_scale: float = 1.0, **options: Any) -> samplers.Plan:
        sampler = options.get("sampler", sampling["sampler"])
        spacing = ode_spacing if sampler in samplers.ODE_SOLVERS else sampling["spacing"]
        given = {key: value for key, value in options.items() if value is not None}
        try:
            guided = convert(guidance_scale, float, "guidance_scale") != 1.0
            made = samplers.plan(path, dict(choices), **{**sampling, "spacing": spacing, **typed(choices.get(sampler), given)})
        except (TypeError, ValueError) as error:
            raise InputError(f"sampling {name}: {error}") from None
        if guided and not (num_classes and label_dropout):
            raise InputError(f"guidance_scale={guidance_scale} needs a conditional model that was trained with label_dropout")
        return made._replace(nfe=2 * made.nfe) if guided else made

    def init(key: Key, batch: Batch) -> Variables:
        return Variables({"network": predictor.init(key, batch.x)})

    def loss(params, state, key, batch: Batch, *, step, train):
        time_keys, noise_keys, label_keys, augment_keys = streams(batch.keys, "time", "noise", "labels", "augmentation")
        x, told, labels = batch.x, None, None if num_classes is None else batch.labels
        if train and augmentation is not None:
            x, told = augmentation.apply(augment_keys, x)
        if train and labels is not None and label_dropout:
            labels = drop_labels(label_keys, labels, label_dropout)
        t, eps = jax.vmap(draw_time)(time_keys), samplers.normal(noise_keys, x.shape[1:])
        answer = predictor.answer(params["network"], labels, told, train=train, key=key)
        value = denoising_loss(path, prediction, answer, x, t, eps, weight).mean()
        return value, (state, {term: value})

    def denoiser(variables: Variables, labels: Labels | None = None) -> Denoiser:
        check_labels(labels, num_classes, least=NO_LABEL)
        return predictor.denoiser(variables.params["network"], labels)

    def estimate(variables: Variables, labels: Labels | None, guidance_scale: float = 1.0) -> Denoiser:
        of_labels = lambda labels: predictor.denoiser(variables.params["network"], labels)  # noqa: E731 (-1: no label)
        guided = guidance.classifier_free(of_labels, labels, guidance_scale)
        return samplers.clip_x0(guided) if clip_x0 else guided

    def known(keys: Key, labels: Labels | None, guided: bool = False) -> Labels | None:
        check_labels(labels, num_classes)
        untaught = num_classes is not None and (guided or not label_dropout)
        return draw_labels(*streams(keys, "labels"), num_classes) if labels is None and untaught else labels

    def trajectory(variables: Variables, keys: Key, labels=None, *, frames: int | None, **options):
        sampler, times, _ = plan(**options)
        scale = options.get("guidance_scale", 1.0)
        labels = known(keys, labels, scale != 1.0)
        start_keys, step_keys = streams(keys, "start", "steps")
        x = samplers.initial_noise(path, start_keys, image_shape, times[0])
        return samplers.simulate(step_keys, sampler(path, estimate(variables, labels, scale)), x, times, frames)

    def sample(variables: Variables, keys: Key, labels=None, **options):
        plan(**options)  # which refuses what `trajectory` alone takes
        return trajectory(variables, keys, labels, frames=None, **options)

    return Model(
        init=init,
        objectives=(Objective(name, loss),),
        sample=sample,
        trajectory=trajectory,
        nfe=lambda **options: plan(**options).nfe,
        num_classes=num_classes,
        likelihoods=likelihoods(lambda variables, keys, labels: estimate(variables, known(keys, labels))),
        diffusion=Diffusion(path, denoiser),
    )
