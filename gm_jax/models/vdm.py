"""Variational diffusion models (Kingma et al. 2021, https://arxiv.org/abs/2107.00630).

The bound is the objective, and the schedule of noise is learnt. With gamma = -log SNR, which rises with u in [0, 1] from
gamma(0) to gamma(1),

    z = alpha x + sigma eps,    alpha^2 = sigmoid(-gamma),    sigma^2 = sigmoid(gamma),

and a network that predicts eps, -log p(x) is at most the sum of

    diffusion         1/2 E_u gamma'(u) |eps - eps_hat(z, gamma)|^2                                            (eq. 17, 19),
    reconstruction    E -log p(x | z_0),  p(x | z_0) ~ exp(-SNR(0) (z_0 / alpha_0 - x)^2 / 2) over the levels  (section 3.3),
    prior             KL(q(z_1 | x) | N(0, I))                                                                      (eq. 11).

Between its ends the schedule has no part in the bound's expectation (section 5.1), only in its variance, which it is trained to
make small (section 5.2). The ends are trained by the bound. u lies evenly over the batch (appendix I.1).

`Diffusion.path` has log-SNR for its time, t = (gamma - gamma_min) / (gamma_max - gamma_min), so that it is no matter of the
schedule: all samplers, and the ODE, go through gamma evenly. The network is told 1000 t; it sees, beside z, sines and cosines
of it at high frequencies (section 4.5, appendix C).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Float

from gm_jax.conditioning import classes_of
from gm_jax.core import Batch, Images, Key, Labels, Likelihood, Model, Network, Objective, PyTree, Variables, streams
from gm_jax.denoising import Inputs, Predictor, known_labels, make_predictor, model_of, training_inputs
from gm_jax.diffusion import plans, samplers
from gm_jax.diffusion.paths import like, log_snr_path
from gm_jax.nets.backbones import backbone
from gm_jax.settings import Count, Decay, Section, Whole, checked

PAPER_NETWORK = {"name": "unet", "channel_multipliers": (1,), "num_res_blocks": 32, "attention_resolutions": ()}
WIDTH = 1024  # of the monotone network

# --- the schedule -------------------------------------------------------------------------------------------------------------


def init_monotone(key: Key) -> PyTree:
    """Weights of `monotone`, with which it is about u, and steep somewhere on the way for each of its units."""
    scales = {"inner": 8.0, "bias": 4.0, "outer": 0.01}
    keys = streams(key, *scales)
    return {name: scales[name] * jax.random.normal(k, (WIDTH,)) for name, k in zip(scales, keys, strict=True)} | {
        "linear": jnp.ones(())
    }


def monotone(weights: PyTree, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """A function that rises from 0 at u = 0 to 1 at u = 1: a line and a perceptron with positive weights (appendix H)."""

    def rising(u):
        inner = jax.nn.tanh((jnp.abs(weights["inner"]) * (2 * u - 1)[..., None] + weights["bias"]) / 2)
        return jnp.abs(weights["linear"]) * u + (jnp.abs(weights["outer"]) * inner).mean(-1)

    low, high = rising(jnp.zeros(())), rising(jnp.ones(()))
    return (rising(u) - low) / (high - low)


def schedule(ends: Float[Array, "2"], weights: PyTree | None, u: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """gamma(u): a line between the ends or, with weights, a curve."""
    low, high = ends
    return low + (high - low) * (u if weights is None else monotone(weights, u))


# --- the bound ----------------------------------------------------------------------------------------------------------------


class Bound(NamedTuple):
    """Its three parts in nats."""

    diffusion: Float[Array, " batch"]
    reconstruction: Float[Array, " batch"]
    prior: Float[Array, " batch"]


def reconstruction_nats(x: Images, z: Images, gamma: Array) -> Float[Array, " batch"]:
    """-log p(x | z_0) of images whose 256 levels are k / 127.5 - 1, or of points; z = z_0 / alpha_0, gamma that of z_0."""
    snr, over = jnp.exp(-gamma), tuple(range(1, x.ndim))
    energy = snr * (z - x) ** 2 / 2
    if x.ndim == 2:
        return (energy + jnp.log(2 * math.pi / snr) / 2).sum(over)
    levels = jnp.arange(256) / 127.5 - 1
    return (energy + logsumexp(-snr * (z[..., None] - levels) ** 2 / 2, axis=-1)).sum(over)


def prior_nats(x: Images, gamma: Array) -> Float[Array, " batch"]:
    """KL(N(alpha x, sigma^2 I) | N(0, I))."""
    variance, mean_squared = jax.nn.sigmoid(gamma), jax.nn.sigmoid(-gamma) * x**2
    return ((mean_squared + variance - jnp.log(variance) - 1) / 2).sum(tuple(range(1, x.ndim)))


def diffusion_nats(
    predict: Callable[[Images, Array], Images],
    gamma_of: Callable[[Array], Array],
    x: Images,
    eps: Images,
    u: Float[Array, " batch"],
    steps: int = 0,
) -> Float[Array, " batch"]:
    """The diffusion part at one u for each example, in continuous time or in so many steps, of which u chooses one (eq. 13).

    predict(z, gamma) -> eps; gamma_of(u) -> gamma.
    """
    if steps:
        u = jnp.ceil(u * steps) / steps
    gamma, slope = jax.jvp(gamma_of, (u,), (jnp.ones_like(u),))
    if steps:
        slope = steps * jnp.expm1(gamma - gamma_of(u - 1 / steps))
    z = like(jnp.sqrt(jax.nn.sigmoid(-gamma)), x) * x + like(jnp.sqrt(jax.nn.sigmoid(gamma)), x) * eps
    return slope / 2 * ((eps - predict(z, gamma)) ** 2).sum(tuple(range(1, x.ndim)))


# --- the model ----------------------------------------------------------------------------------------------------------------


def with_features(net: Network, frequencies: tuple[int, ...]) -> Network:
    """A network that sees sin and cos of 2 pi 2^n x for each n of `frequencies`, too, and adds x to its answer."""

    def see(x):
        angles = [2 * math.pi * 2.0**n * x for n in frequencies]
        return jnp.concatenate([x, *map(jnp.sin, angles), *map(jnp.cos, angles)], axis=-1)

    def apply(params, x, t, condition, **training):
        return x + net.apply(params, see(x), t, condition, **training)

    return Network(lambda key, x, t, condition: net.init(key, see(x), t, condition), apply, net.clock)


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    *,
    network: Section("network") = PAPER_NETWORK,
    gamma_min: float = -13.3,
    gamma_max: float = 5.0,
    learn: Literal["nothing", "ends", "schedule"] = "ends",
    schedule_every: Count = 1,
    fourier_features: tuple[Whole, ...] = (6, 7),
    steps: Count = 1000,
    class_conditional: bool = False,
    label_dropout: Decay = 0.1,
) -> Model:
    """A variational diffusion model on images of `image_shape`, or on points; the defaults are the authors' CIFAR-10 model.

    Args:
      network: see `nets.backbones`; by default told 1000 t.
      gamma_min, gamma_max: the schedule's ends to begin with.
      learn: "ends" of a schedule that stays linear, as in the authors' code; the "schedule" between them too, as in the paper.
      schedule_every: steps from one update of the schedule to the next, each of which costs as much as one of the network.
      fourier_features: n of the frequencies 2 pi 2^n that the network sees the image at.
      steps: of sampling, by default.
      class_conditional, label_dropout: tell the network the label, but for this share of the batch (Ho & Salimans 2022).

    The objective "vdm" is the bound, in bits/dim (of points: nats/dim). Sampling options: `sampling.sampling_of`. Raises
    InputError for settings that do not fit.
    """
    path, classes = log_snr_path(-gamma_max, -gamma_min), classes_of(num_classes, class_conditional)
    seen = (*image_shape[:-1], image_shape[-1] * (1 + 2 * len(fourier_features)))
    net = backbone(network, seen, dtype, num_classes=classes, out_channels=image_shape[-1])
    predictor = make_predictor(path, with_features(net, fourier_features), "eps", "time_1000", classes)
    unit = math.prod(image_shape) * (math.log(2) if len(image_shape) == 3 else 1)
    first_ends = jnp.array([gamma_min, gamma_max])

    def bound(params: PyTree, see: Inputs, keys: Key, u: Array, steps: int = 0, **training: Any) -> Bound:
        own = params["network"] if learn != "nothing" else params["network"] | {"ends": first_ends}
        gamma_of = partial(schedule, own["ends"], params.get("schedule"))
        low, high = gamma_of(jnp.zeros(())), gamma_of(jnp.ones(()))
        answer = predictor.answer(own["weights"], see.labels, **training)
        predict = lambda z, gamma: answer(z, (gamma - gamma_min) / (gamma_max - gamma_min))  # noqa: E731
        z = see.x + jnp.exp(low / 2) * samplers.normal(*streams(keys, "reconstruction"), see.x.shape[1:])
        diffusion = diffusion_nats(predict, gamma_of, see.x, see.eps, u, steps)
        return Bound(diffusion, reconstruction_nats(see.x, z, low), prior_nats(see.x, high))

    def of_batch(params: PyTree, key: Key, batch: Batch, train: bool) -> Bound:
        see = training_inputs(batch, train, classes, label_dropout)
        u = batch.even if batch.even is not None else jax.vmap(jax.random.uniform)(*streams(batch.keys, "time"))
        return bound(params, see, batch.keys, u, train=train, key=key)

    def loss(params, state, key, batch: Batch, *, step, train):
        means = {name: part.mean() / unit for name, part in of_batch(params, key, batch, train)._asdict().items()}
        return sum(means.values()), (state, means)

    def variance(params, state, key, batch: Batch, *, step, train):
        part = of_batch(params, key, batch, train).diffusion / unit
        return (part**2).mean(), (state, {"std": part.std()})

    def nats(
        variables: Variables,
        keys: Key,
        images: Array,
        labels: Labels | None = None,
        *,
        samples: Count = 16,
        steps: Whole = 0,
    ) -> Array:
        labels = known_labels(keys, labels, num_classes=classes, taught_marginal=label_dropout > 0)
        x = images / 127.5 - 1 if images.dtype == jnp.uint8 else images

        def one(k):
            now = jax.vmap(jax.random.fold_in, (0, None))(keys, k)
            noise_keys, time_keys = streams(now, "noise", "time")
            u = (jax.vmap(jax.random.uniform)(time_keys) + k) / samples
            see = Inputs(x, labels, None, samplers.normal(noise_keys, x.shape[1:]))
            return sum(bound(variables.params, see, now, u, steps))

        return jax.lax.map(one, jnp.arange(samples)).mean(0)

    objectives = (Objective("vdm", loss, "network"),)
    if learn == "schedule":
        objectives += (Objective("schedule", variance, "schedule", every=schedule_every),)
    own = Predictor(
        lambda key, x: {"weights": predictor.init(key, x), "ends": first_ends},
        lambda params, *args, **options: predictor.answer(params["weights"], *args, **options),
        lambda params, labels=None: predictor.denoiser(params["weights"], labels),
    )
    model = model_of(
        "vdm",
        image_shape,
        path,
        own,
        objectives,
        sampling={"sampler": "ancestral", "steps": steps, "spacing": "uniform"},
        choices=plans.SAMPLERS | {"ancestral": partial(samplers.ancestral, variance="fixed_small")},
        ode_spacing="uniform",
        num_classes=classes,
        label_dropout=label_dropout,
        likelihoods=lambda estimate: (Likelihood("variational_bound", "bound", nats),),
    )

    def init(key: Key, batch: Batch) -> Variables:
        params, state = model.init(key, batch)
        more = {"schedule": init_monotone(streams(key, "schedule")[0])} if learn == "schedule" else {}
        return Variables(params | more, state)

    return model._replace(init=init)
