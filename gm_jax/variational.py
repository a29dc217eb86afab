"""What models with an encoder q(z|x) = N(mean, diag(exp(logvar))), a prior p(z) = N(0, I) and a Gaussian decoder share.

  Kingma & Welling 2013, "Auto-encoding variational Bayes"              eq. 3, 10, appendix B
  Burda et al. 2015, "Importance weighted autoencoders"                 eq. 8

All in nats, summed over pixels or latent dimensions. Log densities keep their constants, so that likelihoods mean something.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Float

from gm_jax.core import Batch, DiagonalGaussian, Key, Likelihood, Model, Objective, PyTree, Variables
from gm_jax.diffusion.discretized import discretized_gaussian_log_prob
from gm_jax.errors import InputError
from gm_jax.images import to_float

Variance = float | Float[Array, ""]


def gaussian_kl(mean: Float[Array, "batch latent"], logvar: Float[Array, "batch latent"]) -> Float[Array, "batch latent"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of every latent dimension, in nats (Kingma & Welling 2013, appendix B)."""
    return 0.5 * (mean**2 + jnp.expm1(logvar) - logvar)


def gaussian_log_prob(
    x: Float[Array, "batch *dims"], mean: float | Float[Array, "..."], variance: float | Float[Array, "..."]
) -> Float[Array, " batch"]:
    """log N(x; mean, variance) in nats, with its constant, summed over all but the first axis.

    `mean` and `variance` broadcast to x.
    """
    density = -0.5 * ((x - mean) ** 2 / variance + jnp.log(2 * jnp.pi * variance))
    return density.sum(range(1, density.ndim))


def standard_normal(keys: Key, size: int) -> Float[Array, "batch {size}"]:
    """z ~ N(0, I), one key per example."""
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


def reparameterize(
    keys: Key, mean: Float[Array, "batch latent"], logvar: Float[Array, "batch latent"]
) -> Float[Array, "batch latent"]:
    """z ~ N(mean, diag(exp(logvar))), differentiable in both, one key per example (Kingma & Welling 2013, section 2.4)."""
    return mean + jnp.exp(0.5 * logvar) * standard_normal(keys, mean.shape[1])


def gaussian_posterior(encode: Callable[[PyTree, Array], Array]) -> Callable[[PyTree, Array], DiagonalGaussian]:
    """(params, x) -> q(z|x), from an encoder whose first half of features is the mean and whose second is the logvar."""
    return lambda params, x: DiagonalGaussian(*jnp.split(encode(params, x), 2, axis=1))


def elbo(log_likelihood: Float[Array, " batch"], kl: Float[Array, "batch latent"]) -> Float[Array, " batch"]:
    """E_q[log p(x|z)] - KL(q(z|x) || p(z)) <= log p(x), in nats (Kingma & Welling 2013, eq. 3)."""
    return log_likelihood - kl.sum(1)


def iwae(log_weights: Float[Array, "k batch"]) -> Float[Array, " batch"]:
    """log mean_k w_k, in nats, from log w_k = log p(x, z_k) - log q(z_k|x) with z_k ~ q(z|x) (Burda et al. 2015, eq. 8).

    In expectation: the ELBO at k = 1, rising with k, never above log p(x).
    """
    return logsumexp(log_weights, axis=0) - jnp.log(len(log_weights))


def bounds(
    posterior: Callable[[PyTree, Array], DiagonalGaussian],
    decode: Callable[[PyTree, Array], Array],
    variance: Callable[[PyTree], Variance],
) -> tuple[Likelihood, ...]:
    """ELBO and IWAE of uint8 images, negated, in nats per image: those of p(x|z) = N(decode(z), variance) on [-1, 1].

    posterior(params, x) and decode(params, z) are the networks, variance(state) that of the decoder. Each level is charged for
    its bin (`discretized_gaussian_log_prob`). Both take `samples`, the number of z per image: 1 for "elbo", 64 for "iwae".
    """

    def log_weight_terms(variables, keys, images, q, samples):
        """log P(x|z_k) and log p(z_k) - log q(z_k|x), each [samples, batch]: one z per image at a time, to bound memory."""

        def terms(k):
            z = reparameterize(jax.vmap(jax.random.fold_in, (0, None))(keys, k), *q)
            log_likelihood = discretized_gaussian_log_prob(images, decode(variables.params, z), variance(variables.state))
            log_ratio = gaussian_log_prob(z, 0.0, 1.0) - gaussian_log_prob(z, q.mean, jnp.exp(q.logvar))
            return log_likelihood.sum((1, 2, 3)), log_ratio

        return jax.lax.map(terms, jnp.arange(samples))

    def elbo_nats(variables: Variables, keys: Key, images, labels=None, *, samples: int = 1):
        refuse_labels(labels)
        q = posterior(variables.params, to_float(images))
        log_likelihood, _ = log_weight_terms(variables, keys, images, q, samples)
        return -elbo(log_likelihood.mean(0), gaussian_kl(*q))

    def iwae_nats(variables: Variables, keys: Key, images, labels=None, *, samples: int = 64):
        refuse_labels(labels)
        q = posterior(variables.params, to_float(images))
        log_likelihood, log_ratio = log_weight_terms(variables, keys, images, q, samples)
        return -iwae(log_likelihood + log_ratio)

    return Likelihood("elbo", "bound", elbo_nats), Likelihood("iwae", "bound", iwae_nats)


def latent_model(
    init: Callable[[Key, Batch], Variables],
    objective: Objective,
    latent_dim: int,
    decode: Callable[[PyTree, Array], Array],
    *,
    posterior: Callable[[PyTree, Array], DiagonalGaussian] | None = None,
    encode: Callable[[PyTree, Array], Array] | None = None,
    likelihoods: tuple[Likelihood, ...] = (),
) -> Model:
    """The `Model` of an unconditional autoencoder whose prior is N(0, I), from functions of its parameters.

    `Model.encode` draws from `posterior(params, x)`; without one it is the deterministic `encode(params, x)`. `Model.decode`
    and `Model.sample` give the decoder's mean, clipped to [-1, 1]. All raise InputError for labels.
    """

    def model_posterior(variables: Variables, x, labels=None) -> DiagonalGaussian:
        refuse_labels(labels)
        return posterior(variables.params, x)

    def model_encode(variables: Variables, keys: Key, x, labels=None):
        refuse_labels(labels)
        return encode(variables.params, x) if posterior is None else reparameterize(keys, *posterior(variables.params, x))

    def model_decode(variables: Variables, keys: Key, z, labels=None):
        del keys  # the mean is decoded, nothing is drawn
        refuse_labels(labels)
        return jnp.clip(decode(variables.params, z), -1, 1)

    def sample(variables: Variables, keys: Key, labels=None):
        return model_decode(variables, keys, standard_normal(keys, latent_dim), labels)

    return Model(
        init=init,
        objectives=(objective,),
        sample=sample,
        nfe=lambda: 1,
        encode=model_encode,
        decode=model_decode,
        posterior=None if posterior is None else model_posterior,
        likelihoods=likelihoods,
    )


def refuse_labels(labels: Array | None) -> None:
    """Raises InputError where an unconditional model is given labels."""
    if labels is not None:
        raise InputError("this model is unconditional: leave labels at None")
