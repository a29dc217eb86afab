"""What models with an encoder q(z|x) = N(mean, diag(exp(logvar))) share: priors p(z), decoders p(x|z), bounds.

  Kingma & Welling 2013, "Auto-encoding variational Bayes"              eq. 3, 10, appendix B and C
  Burda et al. 2015, "Importance weighted autoencoders"                 eq. 8
  Razavi et al. 2019, "Preventing posterior collapse with delta-VAEs"   section 2.2, appendix C

All in nats, summed over pixels or latent dimensions. Log densities keep their constants, so that likelihoods mean something.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Float

from gm_jax.conditioning import check_labels, draw_labels, one_hot
from gm_jax.core import Batch, DiagonalGaussian, Key, Labels, Likelihood, Model, Objective, PyTree, Variables, streams
from gm_jax.densities import discretized_gaussian_log_prob, gaussian_log_prob
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.nets.autoencoders import Autoencoder
from gm_jax.settings import Count

Variance = float | Float[Array, ""]


# --- priors -------------------------------------------------------------------------------------------------------------------


class Prior(NamedTuple):
    """p(z) of z [batch, latent], in nats."""

    draw: Callable[[Key], Array]  # keys [batch] -> z
    log_prob: Callable[[Array], Array]  # z -> [batch]
    kl: Callable[
        [Array, Array], Array
    ]  # (mean, logvar) -> KL(N(mean, diag(exp(logvar))) || p), [batch, latent] with the KL as sum


def standard_prior(latent_dim: int) -> Prior:
    """N(0, I)."""
    return Prior(lambda keys: standard_normal(keys, latent_dim), lambda z: gaussian_log_prob(z, 0.0, 1.0), gaussian_kl)


def sequence_prior(latent_dim: int, correlation: float) -> Prior:
    """z_1 ~ N(0, 1), z_i = correlation z_(i-1) + N(0, 1 - correlation^2): each number alone is N(0, 1) (Razavi et al., 2.2).

    No posterior of independent numbers fits it: its KL is at least `committed_rate`.
    """
    noise = 1 - correlation**2

    def before(z):
        return jnp.pad(z[:, :-1], ((0, 0), (1, 0)))

    first = jnp.zeros(latent_dim).at[0].set(1.0)
    variances = jnp.where(first > 0, 1.0, noise)  # of every number, given the one before

    def draw(keys):
        e = standard_normal(keys, latent_dim) * jnp.sqrt(variances)

        def step(z, e):
            z = correlation * z + e
            return z, z

        return jax.lax.scan(step, jnp.zeros(len(e)), e.T)[1].T

    def log_prob(z):
        return gaussian_log_prob(z, correlation * before(z), variances)

    def kl(mean, logvar):
        var = jnp.exp(logvar)
        spread = var + correlation**2 * before(var) + (mean - correlation * before(mean)) ** 2
        return 0.5 * (spread / variances - 1 - logvar + jnp.log(variances))

    return Prior(draw, log_prob, kl)


def committed_rate(latent_dim: int, correlation: float) -> float:
    """The least KL of any N(mean, diagonal) to `sequence_prior`, in nats (Razavi et al. 2019, eq. 4): at least 2 numbers."""
    return 0.5 * ((latent_dim - 2) * math.log1p(correlation**2) - math.log1p(-(correlation**2)))


def correlation_for(latent_dim: int, rate: float) -> float:
    """The correlation in [0, 1) at which `committed_rate` is `rate` nats, by bisection.

    Raises InputError for fewer than 2 numbers, and for a rate that only a correlation of almost 1 would have.
    """
    if latent_dim < 2:
        raise InputError(f"a committed rate needs a sequence of at least 2 numbers, not latent_dim={latent_dim}")
    low, high = 0.0, 1 - 1e-6
    if rate > committed_rate(latent_dim, high):
        raise InputError(f"committed_rate={rate:g} nats is too much for latent_dim={latent_dim}; lower it or enlarge z")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if committed_rate(latent_dim, middle) < rate else (low, middle)
    return low


def gaussian_kl(mean: Float[Array, "batch latent"], logvar: Float[Array, "batch latent"]) -> Float[Array, "batch latent"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of every latent dimension, in nats (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean**2 + jnp.expm1(logvar) - logvar)


def standard_normal(keys: Key, size: int) -> Float[Array, "batch {size}"]:
    """z ~ N(0, I), one key per example."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


def reparameterize(
    keys: Key, mean: Float[Array, "batch latent"], logvar: Float[Array, "batch latent"]
) -> Float[Array, "batch latent"]:
    """z ~ N(mean, diag(exp(logvar))), differentiable in both, one key per example (Kingma & Welling 2013, section 2.4)."""
    return mean + jnp.exp(0.5 * logvar) * standard_normal(keys, mean.shape[1])


# --- decoders -----------------------------------------------------------------------------------------------------------------


class Observation(NamedTuple):
    """p(x|z) as a function of what the decoder's network answers, which is shaped as x.

    `log_prob(state, data, answer) -> [batch]` in nats, of data as stored (uint8 images, whose levels are charged for) or as
    networks see them (float, images in [-1, 1]); `mean(answer)`: E[x|z] as networks see x, of images not clipped.
    """

    log_prob: Callable[[PyTree, Array, Array], Array]
    mean: Callable[[Array], Array]


def gaussian_observation(variance: Callable[[PyTree], Variance]) -> Observation:
    """N(answer, variance(state)): of float data the density, of uint8 images the probability of every level's bin."""

    def log_prob(state, data, answer):
        if data.dtype == jnp.uint8:
            return discretized_gaussian_log_prob(data, answer, variance(state)).sum(range(1, data.ndim))
        return gaussian_log_prob(data, answer, variance(state))

    return Observation(log_prob, lambda answer: answer)


def bernoulli_observation() -> Observation:
    """Every pixel is white with probability sigmoid(answer), else black (Kingma & Welling 2013, appendix C.1).

    Of a grey image it is the mean log probability of its binarizations, in which a pixel is white with the probability that is
    its level: minus what is known as BCE, which for grey images is a bound of nothing but that mean.
    """

    def log_prob(state, data, answer):
        del state
        white = data / jnp.float32(255) if data.dtype == jnp.uint8 else (data + 1) / 2
        pixels = white * answer - jax.nn.softplus(answer)
        return pixels.sum(range(1, pixels.ndim))

    return Observation(log_prob, lambda answer: jnp.tanh(answer / 2))


# --- networks and bounds ------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """An encoder and a decoder as functions of labels, which are None for an unconditional model."""

    init: Callable[[Key, Batch], PyTree]
    encode: Callable[..., Array]  # (params, x, labels=None) -> features
    decode: Callable[..., Array]  # (params, z, labels=None) -> x, unbounded


def with_labels(net: Autoencoder, num_classes: int | None) -> Pair:
    """Both networks told the label, as a one-hot condition (Sohn et al. 2015, "Learning structured output representation")."""

    def told(labels: Labels | None) -> Array | None:
        return None if num_classes is None else one_hot(labels, len(labels), num_classes)

    return Pair(
        init=lambda key, batch: net.init(key, batch.x, told(batch.labels)),
        encode=lambda params, x, labels=None: net.encode(params, x, told(labels)),
        decode=lambda params, z, labels=None: net.decode(params, z, told(labels)),
    )


def gaussian_posterior(encode: Callable[..., Array]) -> Callable[..., DiagonalGaussian]:
    """(params, x, labels) -> q(z|x, y), from an encoder whose first half of features is the mean, whose second the logvar."""
    return lambda params, x, labels=None: DiagonalGaussian(*jnp.split(encode(params, x, labels), 2, axis=1))


def elbo(log_likelihood: Float[Array, " batch"], kl: Float[Array, "batch latent"]) -> Float[Array, " batch"]:
    """E_q[log p(x|z)] - KL(q(z|x) || p(z)) <= log p(x), in nats (Kingma & Welling 2013, eq. 3)."""
    return log_likelihood - kl.sum(1)


def iwae(log_weights: Float[Array, "k batch"]) -> Float[Array, " batch"]:
    """log mean_k w_k, in nats, from log w_k = log p(x, z_k) - log q(z_k|x) with z_k ~ q(z|x) (Burda et al. 2015, eq. 8).

    In expectation: the ELBO at k = 1, rising with k, never above log p(x).
    """
    return logsumexp(log_weights, axis=0) - jnp.log(len(log_weights))


def log_weight(
    net: Pair,
    prior: Prior,
    observation: Observation,
    variables: Variables,
    keys: Key,
    data: Array,
    labels: Labels | None,
    q: DiagonalGaussian,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """(log p(x|z), log p(z) - log q(z|x)) for one z ~ q(z|x) a key; their sum is the log of an importance weight."""
    z = reparameterize(keys, q.mean, q.logvar)
    log_ratio = prior.log_prob(z) - gaussian_log_prob(z, q.mean, jnp.exp(q.logvar))
    return observation.log_prob(variables.state, data, net.decode(variables.params, z, labels)), log_ratio


def bounds(
    net: Pair,
    posterior: Callable[..., DiagonalGaussian],
    observation: Observation,
    prior: Prior,
    num_classes: int | None = None,
) -> tuple[Likelihood, ...]:
    """ELBO and IWAE, negated, in nats per example.

    Of uint8 images, whose levels an observation charges for, and of points, whose density it is. Both take `samples`, the
    number of z per example: 1 for "elbo", 64 for "iwae". Of a conditional model without labels they are bounds of the marginal
    p(x) = 1/K sum_y p(x|y), with one weight for each label and z.

    posterior(params, x, labels) -> q(z|x, y).
    """

    def log_weights(variables, keys, data, labels, samples):
        """log p(x, z_k | y) - log q(z_k | x, y), [samples, batch]: one z per example at a time, to bound memory."""
        q = posterior(variables.params, to_float(data) if data.dtype == jnp.uint8 else data, labels)

        def weight(k):
            keys_k = jax.vmap(jax.random.fold_in, (0, None))(keys, k)
            return log_weight(net, prior, observation, variables, keys_k, data, labels, q)

        return (*jax.lax.map(weight, jnp.arange(samples)), prior.kl(q.mean, q.logvar))

    def marginal_weights(variables, keys, data, samples):
        """log 1/K sum_y of the weights of every label, [samples, batch]."""

        def of_label(label):
            likelihood, log_ratio, _ = log_weights(variables, keys, data, jnp.full(len(data), label), samples)
            return likelihood + log_ratio

        return logsumexp(jax.lax.map(of_label, jnp.arange(num_classes)), axis=0) - jnp.log(num_classes)

    def elbo_nats(variables: Variables, keys: Key, images, labels=None, *, samples: Count = 1):
        check_labels(labels, num_classes)
        if num_classes is not None and labels is None:
            return -marginal_weights(variables, keys, images, samples).mean(0)
        likelihood, _, kl = log_weights(variables, keys, images, labels, samples)
        return -elbo(likelihood.mean(0), kl)

    def iwae_nats(variables: Variables, keys: Key, images, labels=None, *, samples: Count = 64):
        check_labels(labels, num_classes)
        if num_classes is not None and labels is None:
            return -iwae(marginal_weights(variables, keys, images, samples))
        likelihood, log_ratio, _ = log_weights(variables, keys, images, labels, samples)
        return -iwae(likelihood + log_ratio)

    return Likelihood("elbo", "bound", elbo_nats), Likelihood("iwae", "bound", iwae_nats)


def latent_model(
    net: Pair,
    objective: Objective,
    image_shape: tuple[int, ...],
    latent_dim: int,
    *,
    prior: Prior | None = None,
    observation: Observation | None = None,
    init: Callable[[Key, Batch], Variables] | None = None,
    posterior: Callable[..., DiagonalGaussian] | None = None,
    likelihoods: tuple[Likelihood, ...] = (),
    num_classes: int | None = None,
) -> Model:
    """The `Model` of an autoencoder from its networks; the prior is N(0, I) and the decoder Gaussian, unless others are given.

    `init` as of the model; by default the networks' own. `Model.encode` draws from `posterior(params, x, labels)`; without one
    it is the deterministic `net.encode`. `Model.decode` and `Model.sample` give the decoder's mean, of images clipped to
    [-1, 1]. A conditional model needs labels, except that `sample` draws those that it is not given. InputError for others.
    """

    mean = observation.mean if observation else lambda answer: answer
    given_prior, prior = prior, prior or standard_prior(latent_dim)

    def known(labels: Labels | None) -> Labels | None:
        check_labels(labels, num_classes)
        if num_classes is not None and labels is None:
            raise InputError("this model encodes and decodes for a class: give labels")
        return labels

    def model_posterior(variables: Variables, x, labels=None) -> DiagonalGaussian:
        return posterior(variables.params, x, known(labels))

    def model_encode(variables: Variables, keys: Key, x, labels=None):
        if posterior is None:
            return net.encode(variables.params, x, known(labels))
        return reparameterize(keys, *model_posterior(variables, x, labels))

    def model_decode(variables: Variables, keys: Key, z, labels=None):
        del keys  # the mean is decoded, nothing is drawn
        x = mean(net.decode(variables.params, z, known(labels)))
        return jnp.clip(x, -1, 1) if len(image_shape) == 3 else x

    def sample(variables: Variables, keys: Key, labels=None):
        check_labels(labels, num_classes)
        z_keys, label_keys = streams(keys, "latent", "labels")
        if num_classes is not None and labels is None:
            labels = draw_labels(label_keys, num_classes)
        return model_decode(variables, keys, prior.draw(z_keys), labels)

    return Model(
        init=init or (lambda key, batch: Variables(net.init(key, batch))),
        objectives=(objective,),
        sample=sample,
        nfe=lambda: 1,
        encode=model_encode,
        decode=model_decode,
        posterior=None if posterior is None else model_posterior,
        prior_kl=(lambda q: given_prior.kl(*q)) if posterior and given_prior else None,
        num_classes=num_classes,
        likelihoods=likelihoods,
    )
