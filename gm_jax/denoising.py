"""What all noise-based models share: a network becomes a denoiser, a denoiser is trained by one loss, sampled by any sampler.

A paper of this family is a path, a prediction, a distribution of times and a weight (`diffusion.losses` has the table); from
these, `denoising_model` makes its `Model`. One whose loss is another takes `make_predictor` and writes that.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from gm_jax.conditioning import NO_LABEL, check_labels, draw_labels, drop_labels, one_hot
from gm_jax.core import Batch, Diffusion, Key, Labels, Likelihood, Model, Network, Objective, PyTree, Variables, streams
from gm_jax.densities import marginal_over_classes
from gm_jax.diffusion import guidance, ode, samplers
from gm_jax.diffusion.losses import DrawTime, Weight, denoising_loss
from gm_jax.diffusion.paths import Denoiser, Path, Time, coefficients, log_snr
from gm_jax.diffusion.predictions import Prediction, named, to_x0
from gm_jax.sampling import Guidance, Guide, sampling_of
from gm_jax.settings import Count, Positive

# what a network is told of the time: (path, t) -> number
CLOCKS: dict[str, Callable[[Path, Time], Array]] = {
    "time": lambda path, t: t,
    "index": lambda path, t: t - 1,  # of a discrete path's node, counted from 0
    "none": lambda path, t: jnp.zeros_like(t),
    "log_sigma": lambda path, t: -log_snr(path, t) / 8,  # ln(sigma / alpha) / 4: Karras et al. 2022, table 1
    # Song et al. 2021, whose code has them: 999 t, and ln sigma of pixels in [0, 1]
    "time_999": lambda path, t: 999 * t,
    "log_sigma_01": lambda path, t: jnp.log(path.sigma(t) / 2),
    "time_1000": lambda path, t: 1000 * t,  # Kingma et al. 2021, whose code has it
}

NO_GUIDE = Guide(1.0, None)


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


def denoising_model(
    name: str,
    image_shape: tuple[int, ...],
    path: Path,
    network: Network,
    prediction: str | Prediction,
    draw_time: DrawTime,
    *,
    clock: str,
    term: str = "mse",
    weight: Weight | None = None,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    augmentation: Augmentation | None = None,
    **sampled: Any,
) -> Model:
    """The model whose only objective, `name`, is `losses.denoising_loss`.

    Args:
      draw_time: of `diffusion.losses`.
      clock: one of CLOCKS, for a network that leaves it to the model.
      term: what the loss is called among the metrics.
      num_classes, label_dropout: of a conditional model; the share of training labels that it is not told.
      sampled: see `model_of`.
    """
    told_size = augmentation.size if augmentation else 0
    predictor = make_predictor(path, network, prediction, clock, num_classes, told_size)
    see = partial(training_inputs, num_classes=num_classes, label_dropout=label_dropout, augmentation=augmentation)

    def loss(params, state, key, batch: Batch, *, step, train):
        x, labels, told, eps = see(batch, train)
        t = jax.vmap(draw_time)(*streams(batch.keys, "time"))
        answer = predictor.answer(params["network"], labels, told, train=train, key=key)
        value = denoising_loss(path, prediction, answer, x, t, eps, weight).mean()
        return value, (state, {term: value})

    objectives, classes = (Objective(name, loss),), {"num_classes": num_classes, "label_dropout": label_dropout}
    return model_of(name, image_shape, path, predictor, objectives, **classes, **sampled)


class Inputs(NamedTuple):
    """What a network sees of a batch in training, and the noise that goes onto it."""

    x: Array
    labels: Labels | None  # -1 where dropped
    told: Array | None  # what augmentation did
    eps: Array


def training_inputs(
    batch: Batch,
    train: bool,
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    augmentation: Augmentation | None = None,
) -> Inputs:
    """Augmented images and labels of which some are dropped, in training only; and standard normal noise."""
    noise_keys, label_keys, augment_keys = streams(batch.keys, "noise", "labels", "augmentation")
    x, told, labels = batch.x, None, None if num_classes is None else batch.labels
    if train and augmentation is not None:
        x, told = augmentation.apply(augment_keys, x)
    if train and labels is not None and label_dropout:
        labels = drop_labels(label_keys, labels, label_dropout)
    return Inputs(x, labels, told, samplers.normal(noise_keys, x.shape[1:]))


def model_of(
    name: str,
    image_shape: tuple[int, ...],
    path: Path,
    predictor: Predictor,
    objectives: tuple[Objective, ...],
    *,
    sampling: Mapping[str, Any],
    state: PyTree = {},  # noqa: B006 (read only)
    num_classes: int | None = None,
    label_dropout: float = 0.0,
    clip_x0: bool = False,
    likelihoods: Callable[[Callable], tuple[Likelihood, ...]] = lambda estimate: (),
    **options: Any,
) -> Model:
    """A noise-based model without its loss: everything that its denoiser, of the parameters "network", can do.

    Args:
      sampling: the defaults of `sampler`, `steps` and `spacing`; options: further arguments of `sampling.sampling_of`.
      state: the model's first one.
      num_classes, label_dropout: see `denoising_model`.
      clip_x0: clip the estimate of x0 to [-1, 1] in every step of sampling and in likelihoods; points are never clipped.
      likelihoods: from `estimate(variables, keys, labels)`, the denoiser that samples are drawn with, to the likelihoods.

    It samples with the options of `sampling.sampling_of`; `guidance_scale` (1.0: none, see `guidance.classifier_free`) needs
    label dropout in training. A conditional model that is given no labels is the marginal one, if label dropout has taught it
    that, else each example's label is drawn. Latents, and the likelihood "ode", are those of `diffusion.ode`.
    """
    clip_x0 = clip_x0 and len(image_shape) == 3
    taught_marginal = num_classes is None or label_dropout > 0

    def init(key: Key, batch: Batch) -> Variables:
        return Variables({"network": predictor.init(key, batch.x)}, state)

    def denoiser(variables: Variables, labels: Labels | None = None) -> Denoiser:
        check_labels(labels, num_classes, least=NO_LABEL)
        return predictor.denoiser(variables.params["network"], labels)

    known = partial(known_labels, num_classes=num_classes, taught_marginal=taught_marginal)

    def estimate(variables: Variables, keys: Key, labels: Labels | None, guide: Guide = NO_GUIDE) -> Denoiser:
        of_labels = partial(predictor.denoiser, variables.params["network"])  # -1: no label
        labels = known(keys, labels, guided=guide.scale != NO_GUIDE.scale)
        guided = guidance.classifier_free(of_labels, labels, *guide)
        return samplers.clip_x0(guided) if clip_x0 else guided

    guides = Guidance() if num_classes and label_dropout else None
    drawn = sampling_of(name, image_shape, path, estimate, sampling, guidance=guides, **options)
    flow = flow_of(path, predictor, known, None if taught_marginal else num_classes)
    return Model(
        init=init,
        objectives=objectives,
        **drawn._asdict(),
        encode=flow.encode,
        decode=flow.decode,
        num_classes=num_classes,
        likelihoods=(*likelihoods(estimate), flow.likelihood),
        diffusion=Diffusion(path, denoiser),
    )


def known_labels(
    keys: Key, labels: Labels | None, *, num_classes: int | None, taught_marginal: bool, guided: bool = False
) -> Labels | None:
    """The labels, checked; drawn for each key where a conditional model needs some and is given none."""
    check_labels(labels, num_classes)
    untaught = num_classes is not None and (guided or not taught_marginal)
    return draw_labels(*streams(keys, "labels"), num_classes) if labels is None and untaught else labels


class Flow(NamedTuple):
    """What the probability-flow ODE of a model gives: see `diffusion.ode` and `core.Model`."""

    encode: Callable[..., Array]
    decode: Callable[..., Array]
    likelihood: Likelihood


def flow_of(
    path: Path, predictor: Predictor, known: Callable[[Key, Labels | None], Labels | None], mixture: int | None = None
) -> Flow:
    """Latents and the likelihood "ode" of a network that is neither guided nor clipped, so that the ODE runs both ways.

    known: checks labels, and draws those that are needed and not given.
    mixture: the number of classes whose equal mixture p(x) is, for a network that only knows p(x|y).
    """

    def denoiser_of(variables: Variables) -> Callable[[Labels | None], Denoiser]:
        one = partial(predictor.denoiser, variables.params["network"])
        return lambda label: one(None if label is None else label[None])

    def encode(variables: Variables, keys: Key, x: Array, labels: Labels | None = None) -> Array:
        return ode.encode(path, denoiser_of(variables), x, known(keys, labels))

    def decode(variables: Variables, keys: Key, z: Array, labels: Labels | None = None) -> Array:
        return ode.decode(path, denoiser_of(variables), z, known(keys, labels))

    def nats(
        variables: Variables,
        keys: Key,
        images: Array,
        labels: Labels | None = None,
        *,
        exact: bool | None = None,
        probes: Count = 1,
        tolerance: Positive = ode.TOLERANCE,
    ) -> Array:
        density = ode.dequantized_nats if images.dtype == jnp.uint8 else ode.nats
        options = {"exact": exact, "probes": probes, "tolerance": tolerance}
        of_labels = lambda labels: density(path, denoiser_of(variables), keys, images, labels, **options)  # noqa: E731
        given = known(keys, labels)
        if labels is None and mixture:
            return marginal_over_classes(of_labels, len(images), mixture)
        return of_labels(given)

    return Flow(encode, decode, Likelihood("ode", "estimate", nats, slow=True))
