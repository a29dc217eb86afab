"""Classifier guidance (Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233, algorithm 2; Song et al. 2021, section 5).

Two parts: a noise-based model that knows no labels, and a classifier of what it sees, noise and all. By Bayes' rule the score
of x_t given the label y is the sum of theirs, so that with p(y | x_t) to the power of `guidance_scale`

    E[x0 | x_t, y] = E[x0 | x_t] + guidance_scale sigma^2 / alpha grad log p(y | x_t).

The classifier is trained beside the model, by the cross-entropy of its labels at x_t, ln(sigma / alpha) ~ N(0, NOISE_STD^2). It
is a network of `nets.backbones` that answers a number a class for every pixel, averaged over the image.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from gm_jax.compose import join, part, within
from gm_jax.conditioning import NO_LABEL, check_labels, draw_labels
from gm_jax.core import Batch, Diffusion, Images, Key, Labels, Model, Objective, Variables, streams
from gm_jax.denoising import CLOCKS
from gm_jax.diffusion import guidance, losses, samplers
from gm_jax.diffusion.paths import Denoiser, Path, Time, add_noise
from gm_jax.errors import InputError
from gm_jax.nets.backbones import backbone
from gm_jax.sampling import Guidance, Guide, sampling_of
from gm_jax.settings import Count, NonNegative, Section, checked

NOISE_STD = 1.5


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None,
    dtype: Any,
    build: Any,
    *,
    diffusion: Section("model") = {"name": "edm"},  # noqa: B006 (read only)
    classifier: Section("network") = {"name": "unet"},  # noqa: B006 (read only)
    guidance_scale: NonNegative = 1.0,
    sampler: str = "heun",
    steps: Count = 18,
    spacing: str = "karras",
) -> Model:
    """A noise-based model and a classifier that guides it.

    Args:
      diffusion: the settings of the model, an unconditional one.
      classifier: of the network, told ln(sigma / alpha) / 4 of the time.
      guidance_scale: in sampling, unless an option says otherwise; 0 is none, 1 Bayes' rule.
      sampler, steps, spacing: in sampling, unless options say otherwise.

    Its parts, "diffusion" and "classifier", are groups of parameters; the objective "classifier" reports `accuracy`. NFE counts
    the classifier, with its gradient, as a pass. Samples of no given labels are of labels drawn for each. Raises InputError for
    data without labels, and for a part that is conditional or has no noise.
    """
    if num_classes is None:
        raise InputError("classifier guidance needs labels, which this data set has none of; choose labelled data")
    model = build(diffusion, image_shape)
    if model.diffusion is None or model.num_classes is not None:
        raise InputError(f"diffusion.name={diffusion['name']}: classifier guidance needs an unconditional model of noise")
    path = model.diffusion.path
    net = backbone(classifier, image_shape, dtype, out_channels=num_classes)
    tell = CLOCKS["log_sigma" if net.clock == "auto" else net.clock]

    def logits(params: Any, x_t: Images, t: Time, **training: Any) -> Float[Array, "batch classes"]:
        answer = net.apply(params, x_t / jnp.hypot(*_levels(path, t, x_t)), tell(path, t), None, **training)
        return answer.mean(axis=range(1, answer.ndim - 1))

    def init(key: Key, batch: Batch) -> Variables:
        own, others = streams(key, "classifier", "diffusion")
        params = net.init(own, batch.x[:1], jnp.zeros(1), None)
        return join(diffusion=model.init(others, batch), classifier=Variables(params))

    def loss(params, state, key, batch: Batch, *, step, train):
        time_keys, noise_keys = streams(batch.keys, "classifier time", "classifier noise")
        t = jax.vmap(losses.log_normal(path, 0.0, NOISE_STD))(time_keys)
        x_t = add_noise(path, batch.x, samplers.normal(noise_keys, batch.x.shape[1:]), t)
        answer = logits(params["classifier"], x_t, t, train=train, key=key)
        nats = optax.softmax_cross_entropy_with_integer_labels(answer, batch.labels).mean()
        return nats, (state, {"accuracy": (answer.argmax(1) == batch.labels).mean(dtype=jnp.float32)})

    def guided(variables: Variables, labels: Labels | None, guide: Guide) -> Denoiser:
        plain = model.diffusion.denoiser(part(variables, "diffusion"))
        if labels is None:
            return plain

        def log_prob(x_t, t):
            t = jnp.broadcast_to(t, x_t.shape[:1])
            found = jax.nn.log_softmax(logits(variables.params["classifier"], x_t, t))
            of_label = jnp.take_along_axis(found, jnp.maximum(labels, 0)[:, None], axis=1)[:, 0]
            return jnp.where(labels == NO_LABEL, 0.0, of_label)

        return guidance.classifier(path, plain, log_prob, *guide)

    def denoiser_of(variables: Variables, keys: Key, labels: Labels | None, guide: Guide) -> Denoiser:
        check_labels(labels, num_classes)
        labels = draw_labels(*streams(keys, "labels"), num_classes) if labels is None else labels
        return guided(variables, labels, guide)

    def denoiser(variables: Variables, labels: Labels | None = None) -> Denoiser:
        check_labels(labels, num_classes, least=NO_LABEL)
        return guided(variables, labels, Guide(1.0, None))

    defaults = {"sampler": sampler, "steps": steps, "spacing": spacing}
    guides = Guidance(none=0.0, default=guidance_scale)
    return Model(
        init=init,
        objectives=(*(within(o, "diffusion") for o in model.objectives), Objective("classifier", loss, "classifier")),
        **sampling_of("guided", image_shape, path, denoiser_of, defaults, guidance=guides)._asdict(),
        num_classes=num_classes,
        diffusion=Diffusion(path, denoiser),
    )


def _levels(path: Path, t: Time, x: Images) -> tuple[Array, Array]:
    """alpha and sigma, shaped so as to multiply x: what the classifier sees has about unit variance."""
    shape = jnp.shape(t) + (1,) * (x.ndim - 1) * (jnp.ndim(t) > 0)
    return jnp.reshape(path.alpha(t), shape), jnp.reshape(path.sigma(t), shape)
