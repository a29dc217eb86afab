"""Convolutional variational autoencoder with a Gaussian decoder of explicit variance, and its relatives.

  VAE          Kingma & Welling 2013, "Auto-encoding variational Bayes"          eq. 3, 10, appendix B
  beta-VAE     Higgins et al. 2017                                                eq. 4
  free bits    Kingma et al. 2016, "Inverse autoregressive flow", appendix C.8
  IWAE         Burda et al. 2015, "Importance weighted autoencoders"              eq. 8
  sigma-VAE    Rybkin et al. 2020, "Simple and effective VAE training with calibrated decoders"

With q(z|x) = N(mean, diag(exp(logvar))), p(z) = N(0, I) and p(x|z) = N(decoder(z), sigma^2 I) the loss is

  -E_q[log p(x|z)] + beta * KL(q(z|x) || p(z))        nats per image: sums over pixels and latent dimensions, batch mean.

Scaling `beta` by c and scaling sigma^2 (`likelihood_variance`) by c have the same optimal networks, but only sigma^2 is part of
the generative model: the likelihood of an image depends on it, and never on beta. So log p(x|z) keeps its constant.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp
from jaxtyping import Float

from gm_jax.core import Batch, DiagonalGaussian, Key, Likelihood, Model, Objective, PyTree, Variables, batch_mean
from gm_jax.diffusion.discretized import discretized_gaussian_log_prob
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.nets.resnet import Decoder, Encoder, default_multipliers, lowest_grid

OPTIMAL = "optimal"
VARIANCE_DECAY = 0.99  # of the running mean that evaluation uses, per training step
MIN_VARIANCE = 1 / 255**2  # half a uint8 level in [-1, 1]: a finer density says nothing about uint8 images


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


def reparameterize(
    keys: Key, mean: Float[Array, "batch latent"], logvar: Float[Array, "batch latent"]
) -> Float[Array, "batch latent"]:
    """z ~ N(mean, diag(exp(logvar))), differentiable in both, one key per example (Kingma & Welling 2013, section 2.4)."""
    return mean + jnp.exp(0.5 * logvar) * _normal(keys, mean.shape[1])


def elbo(log_likelihood: Float[Array, " batch"], kl: Float[Array, "batch latent"]) -> Float[Array, " batch"]:
    """E_q[log p(x|z)] - KL(q(z|x) || p(z)) <= log p(x), in nats (Kingma & Welling 2013, eq. 3)."""
    return log_likelihood - kl.sum(1)


def iwae(log_weights: Float[Array, "k batch"]) -> Float[Array, " batch"]:
    """log mean_k w_k, in nats, from log w_k = log p(x, z_k) - log q(z_k|x) with z_k ~ q(z|x) (Burda et al. 2015, eq. 8).

    In expectation: the ELBO at k = 1, rising with k, never above log p(x).
    """
    return logsumexp(log_weights, axis=0) - jnp.log(len(log_weights))


def free_bits(kl: Float[Array, "batch latent"], min_nats: float, axis_name: str | None = None) -> Float[Array, ""]:
    """Sum over dimensions of max(min_nats, batch mean of KL), in nats: below `min_nats` a dimension is not penalised.

    The maximum is taken after the mean over the (global) batch, so that single images may still use less.
    """
    return jnp.maximum(batch_mean(kl, axis_name), min_nats).sum()


class Autoencoder(NamedTuple):
    """An encoder and a decoder as pure functions of their parameters."""

    init: Callable[[Key, Array], PyTree]  # (key, x) -> params, in the groups "encoder" and "decoder"
    posterior: Callable[[PyTree, Array], DiagonalGaussian]  # (params, x) -> q(z|x)
    decode: Callable[[PyTree, Array], Array]  # (params, z) -> mean of p(x|z), unbounded


def resnet_autoencoder(
    image_shape: Sequence[int],
    latent_dim: int,
    channels: int,
    channel_multipliers: Sequence[int],
    num_blocks: int,
    dtype: jnp.dtype = jnp.float32,
) -> Autoencoder:
    """Encoder and decoder of `nets.resnet`. Raises InputError where the image cannot be halved once per multiplier."""
    multipliers = tuple(channel_multipliers or default_multipliers(image_shape))
    lowest_grid(image_shape, multipliers)
    encoder = Encoder(2 * latent_dim, channels, multipliers, num_blocks, dtype)
    decoder = Decoder(tuple(image_shape), channels, multipliers, num_blocks, dtype)

    def init(key, x):
        encoder_key, decoder_key = jax.random.split(key)
        z = jnp.zeros((1, latent_dim))
        return {"encoder": encoder.init(encoder_key, x[:1])["params"], "decoder": decoder.init(decoder_key, z)["params"]}

    def posterior(params, x):
        return DiagonalGaussian(*jnp.split(encoder.apply({"params": params["encoder"]}, x), 2, axis=1))

    def decode(params, z):
        return decoder.apply({"params": params["decoder"]}, z)

    return Autoencoder(init, posterior, decode)


def make(
    image_shape: Sequence[int],
    dtype: jnp.dtype = jnp.float32,
    axis_name: str | None = None,
    *,
    latent_dim: int = 128,
    channels: int = 64,
    channel_multipliers: Sequence[int] = (),
    num_blocks: int = 1,
    beta: float = 1.0,
    likelihood_variance: float | str = 0.02,
    kl_warmup_steps: int = 0,
    free_bits: float = 0.0,
) -> Model:
    """The ConvVAE: 5,100,044 parameters by default at 32x32x3.

    latent_dim: size of z. channels, channel_multipliers, num_blocks: the width at the first halving, its multiple and the
    residual blocks at every halving; no multipliers: (1, 2, 4, 4, ...), halving as long as the image allows, down to 4x4.
    beta: weight of the KL term. likelihood_variance: sigma^2 of the decoder for images in [-1, 1]; "optimal": the batch's mean
    squared error, its maximum-likelihood value (Rybkin et al. 2020), whose running mean serves for evaluation.
    kl_warmup_steps: beta grows linearly from 0 over these first steps (0: off). free_bits: nats per dimension (0: off).

    `encode` draws from q(z|x); for reconstructions decode the mean of `posterior`. `decode` and `sample` give the decoder's
    mean, clipped to [-1, 1]. Likelihoods ignore beta, warm-up and free bits.

    Raises InputError for values out of range, for images that cannot be halved once per multiplier, and for labels.
    """
    _check(likelihood_variance, beta=beta, kl_warmup_steps=kl_warmup_steps, free_bits=free_bits)
    net = resnet_autoencoder(image_shape, latent_dim, channels, channel_multipliers, num_blocks, dtype)
    optimal = likelihood_variance == OPTIMAL

    def init(key: Key, batch: Batch) -> Variables:
        # an untrained decoder returns zero: its mean squared error is the mean square
        state = {"likelihood_variance": jnp.mean(batch.x**2)} if optimal else {}
        return Variables(net.init(key, batch.x), state)

    def posterior(variables: Variables, x, labels=None) -> DiagonalGaussian:
        _no_labels(labels)
        return net.posterior(variables.params, x)

    def encode(variables: Variables, keys: Key, x, labels=None):
        return reparameterize(keys, *posterior(variables, x, labels))

    def decode(variables: Variables, keys: Key, z, labels=None):
        del keys  # the mean is decoded, nothing is drawn
        _no_labels(labels)
        return jnp.clip(net.decode(variables.params, z), -1, 1)

    def sample(variables: Variables, keys: Key, labels=None):
        return decode(variables, keys, _normal(keys, latent_dim), labels)

    return Model(
        init=init,
        objectives=(Objective("vae", _loss(net, beta, likelihood_variance, kl_warmup_steps, free_bits, axis_name)),),
        sample=sample,
        nfe=lambda: 1,
        encode=encode,
        decode=decode,
        posterior=posterior,
        likelihoods=_likelihoods(net, likelihood_variance),
    )


def _loss(net, beta, likelihood_variance, kl_warmup_steps, min_nats, axis_name):
    def loss(params, state, key, batch, *, step, train):
        del key  # for dropout, which there is none of
        q = net.posterior(params, batch.x)
        x_mean = net.decode(params, reparameterize(batch.keys, *q))
        mse = jnp.mean((batch.x - x_mean) ** 2, axis=(1, 2, 3))
        variance = _variance(likelihood_variance, state)
        if train and likelihood_variance == OPTIMAL:
            variance, state = _optimal_variance(mse, state, axis_name)

        log_likelihood, kl = gaussian_log_prob(batch.x, x_mean, variance), gaussian_kl(*q)
        metrics = {
            "elbo": elbo(log_likelihood, kl).mean(),
            "reconstruction": -log_likelihood.mean(),
            "kl": kl.sum(1).mean(),
            "mse": mse.mean(),
        }
        weight = beta
        if kl_warmup_steps:
            weight = metrics["beta"] = beta * jnp.minimum(1.0, step / kl_warmup_steps)
        return metrics["reconstruction"] + weight * free_bits(kl, min_nats, axis_name), (state, metrics)

    return loss


def _variance(likelihood_variance, state):
    return state["likelihood_variance"] if likelihood_variance == OPTIMAL else likelihood_variance


def _optimal_variance(mse, state, axis_name):
    """The batch's variance, and the state with its running mean.

    To the gradient the variance is a constant: at the optimum the loss is stationary in it, and so no gradient crosses devices.
    """
    variance = jnp.maximum(batch_mean(jax.lax.stop_gradient(mse), axis_name), MIN_VARIANCE)
    running = VARIANCE_DECAY * state["likelihood_variance"] + (1 - VARIANCE_DECAY) * variance
    return variance, {"likelihood_variance": running}


def _likelihoods(net, likelihood_variance):
    def log_weight_terms(variables, keys, images, q, samples):
        """log P(x|z_k) and log p(z_k) - log q(z_k|x), each [samples, batch]: one z per image at a time, to bound memory."""

        def terms(k):
            z = reparameterize(jax.vmap(jax.random.fold_in, (0, None))(keys, k), *q)
            x_mean = net.decode(variables.params, z)
            log_likelihood = discretized_gaussian_log_prob(images, x_mean, _variance(likelihood_variance, variables.state))
            log_ratio = gaussian_log_prob(z, 0.0, 1.0) - gaussian_log_prob(z, q.mean, jnp.exp(q.logvar))
            return log_likelihood.sum((1, 2, 3)), log_ratio

        return jax.lax.map(terms, jnp.arange(samples))

    def elbo_nats(variables: Variables, keys: Key, images, labels=None, *, samples: int = 1):
        _no_labels(labels)
        q = net.posterior(variables.params, to_float(images))
        log_likelihood, _ = log_weight_terms(variables, keys, images, q, samples)
        return -elbo(log_likelihood.mean(0), gaussian_kl(*q))

    def iwae_nats(variables: Variables, keys: Key, images, labels=None, *, samples: int = 64):
        _no_labels(labels)
        q = net.posterior(variables.params, to_float(images))
        log_likelihood, log_ratio = log_weight_terms(variables, keys, images, q, samples)
        return -iwae(log_likelihood + log_ratio)

    return Likelihood("elbo", "bound", elbo_nats), Likelihood("iwae", "bound", iwae_nats)


def _normal(keys, size):
    return jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)


def _no_labels(labels):
    if labels is not None:
        raise InputError("vae is unconditional: leave labels at None")


def _check(likelihood_variance, **at_least_zero):
    if isinstance(likelihood_variance, str):
        if likelihood_variance != OPTIMAL:
            raise InputError(f"likelihood_variance={likelihood_variance!r} is unknown: give a number above 0 or {OPTIMAL!r}")
    elif not likelihood_variance > 0:
        raise InputError(f"likelihood_variance={likelihood_variance} must be above 0 (or {OPTIMAL!r})")
    for name, value in at_least_zero.items():
        if value < 0:
            raise InputError(f"{name}={value} must not be negative")
