"""What models with an encoder q(z|x) = N(mean, diag(exp(logvar))), a prior p(z) = N(0, I) and a Gaussian decoder share.

  Kingma & Welling 2013, "Auto-encoding variational Bayes"              eq. 3, 10, appendix B
  Burda et al. 2015, "Importance weighted autoencoders"                 eq. 8

All in nats, summed over pixels or latent dimensions. Log densities keep their constants, so that likelihoods mean something.
"""

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


def bounds(
    posterior: Callable[..., DiagonalGaussian],
    decode: Callable[..., Array],
    variance: Callable[[PyTree], Variance],
    num_classes: int | None = None,
) -> tuple[Likelihood, ...]:
    """ELBO and IWAE, negated, in nats per example: those of p(x|z) = N(decode(z), variance), x in [-1, 1].

    Of uint8 images, each level being charged for its bin (`discretized_gaussian_log_prob`), and of points, whose density it is.
    Both take `samples`, the number of z per example: 1 for "elbo", 64 for "iwae". Of a conditional model without labels they
    are bounds of the marginal p(x) = 1/K sum_y p(x|y), with one weight for each label and z.

    posterior(params, x, labels) and decode(params, z, labels) are the networks, variance(state) that of the decoder.
    """

    def log_likelihood(data, mean, variance):
        if data.dtype == jnp.uint8:
            return discretized_gaussian_log_prob(data, mean, variance).sum(range(1, data.ndim))
        return gaussian_log_prob(data, mean, variance)

    def log_weights(variables, keys, data, labels, samples):
        """log p(x, z_k | y) - log q(z_k | x, y), [samples, batch]: one z per example at a time, to bound memory."""
        q = posterior(variables.params, to_float(data) if data.dtype == jnp.uint8 else data, labels)

        def weight(k):
            z = reparameterize(jax.vmap(jax.random.fold_in, (0, None))(keys, k), *q)
            log_ratio = gaussian_log_prob(z, 0.0, 1.0) - gaussian_log_prob(z, q.mean, jnp.exp(q.logvar))
            likelihood = log_likelihood(data, decode(variables.params, z, labels), variance(variables.state))
            return likelihood, log_ratio

        return (*jax.lax.map(weight, jnp.arange(samples)), gaussian_kl(*q))

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
    init: Callable[[Key, Batch], Variables] | None = None,
    posterior: Callable[..., DiagonalGaussian] | None = None,
    likelihoods: tuple[Likelihood, ...] = (),
    num_classes: int | None = None,
) -> Model:
    """The `Model` of an autoencoder whose prior is N(0, I), from its networks.

    `init` as of the model; by default the networks' own. `Model.encode` draws from `posterior(params, x, labels)`; without one
    it is the deterministic `net.encode`. `Model.decode` and `Model.sample` give the decoder's mean, of images clipped to
    [-1, 1]. A conditional model needs labels, except that `sample` draws those that it is not given. InputError for others.
    """

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
        x = net.decode(variables.params, z, known(labels))
        return jnp.clip(x, -1, 1) if len(image_shape) == 3 else x

    def sample(variables: Variables, keys: Key, labels=None):
        check_labels(labels, num_classes)
        z_keys, label_keys = streams(keys, "latent", "labels")
        if num_classes is not None and labels is None:
            labels = draw_labels(label_keys, num_classes)
        return model_decode(variables, keys, standard_normal(z_keys, latent_dim), labels)

    return Model(
        init=init or (lambda key, batch: Variables(net.init(key, batch))),
        objectives=(objective,),
        sample=sample,
        nfe=lambda: 1,
        encode=model_encode,
        decode=model_decode,
        posterior=None if posterior is None else model_posterior,
        num_classes=num_classes,
        likelihoods=likelihoods,
    )
