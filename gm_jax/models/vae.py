"""Variational autoencoder with a Gaussian decoder of explicit variance or a Bernoulli one, and its relatives.

  VAE          Kingma & Welling 2013, "Auto-encoding variational Bayes"          eq. 3, 10, appendix B and C
  beta-VAE     Higgins et al. 2017                                                eq. 4
  free bits    Kingma et al. 2016, "Inverse autoregressive flow", appendix C.8
  IWAE         Burda et al. 2015, "Importance weighted autoencoders"              eq. 8 to 14
  sigma-VAE    Rybkin et al. 2020, "Simple and effective VAE training with calibrated decoders"
  delta-VAE    Razavi et al. 2019, "Preventing posterior collapse with delta-VAEs"    section 2.2

With q(z|x) = N(mean, diag(exp(logvar))), p(z) = N(0, I) and p(x|z) = N(decoder(z), sigma^2 I) the loss is

  -E_q[log p(x|z)] + beta * KL(q(z|x) || p(z))        nats per image: sums over pixels and latent dimensions, batch mean.

Scaling `beta` by c and scaling sigma^2 (`likelihood_variance`) by c have the same optimal networks, but only sigma^2 is part of
the generative model: the likelihood of an image depends on it, and never on beta. So log p(x|z) keeps its constant.

The IWAE draws z_1, ..., z_k from q(z|x) and has a tighter bound for its loss, -log 1/k sum_i p(x, z_i) / q(z_i|x).
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from gm_jax.conditioning import classes_of
from gm_jax.core import Batch, Key, Model, Objective, PyTree, Variables, batch_mean, streams
from gm_jax.errors import InputError
from gm_jax.nets.autoencoders import autoencoder
from gm_jax.settings import Count, NonNegative, Positive, Section, Whole, checked
from gm_jax.variational import (
    bernoulli_observation,
    bounds,
    correlation_for,
    elbo,
    gaussian_observation,
    gaussian_posterior,
    iwae,
    latent_model,
    log_weight,
    reparameterize,
    sequence_prior,
    standard_prior,
    with_labels,
)

OPTIMAL = "optimal"
VARIANCE_DECAY = 0.99  # of the running mean that evaluation uses, per training step
MIN_VARIANCE = 1 / 255**2  # half a uint8 level in [-1, 1]: a finer density says nothing about uint8 images


def free_bits_kl(kl: Float[Array, "batch latent"], min_nats: float, axis_name: str | None = None) -> Float[Array, ""]:
    """Sum over dimensions of max(min_nats, batch mean of KL), in nats: below `min_nats` a dimension is not penalised.

    The maximum is taken after the mean over the (global) batch, so that single images may still use less.
    """
    return jnp.maximum(batch_mean(kl, axis_name), min_nats).sum()


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    *,
    network: Section("autoencoder") = {"name": "resnet"},  # noqa: B006 (read only)
    latent_dim: Count = 128,
    beta: NonNegative = 1.0,
    decoder: Literal["gaussian", "bernoulli"] = "gaussian",
    likelihood_variance: Positive | Literal["optimal"] = 0.02,
    importance_samples: Count = 1,
    committed_rate: NonNegative = 0.0,
    kl_warmup_steps: Whole = 0,
    free_bits: NonNegative = 0.0,
    class_conditional: bool = False,
) -> Model:
    """The VAE of images of `image_shape`, or of points; the ConvVAE by default, of 5,100,044 parameters at 32x32x3.

    network: see `nets.autoencoders`. latent_dim: size of z. beta: weight of the KL. decoder: "gaussian", or "bernoulli" for
    black and white images (`variational.bernoulli_observation`, also for grey ones). likelihood_variance: sigma^2 of a Gaussian
    decoder for images in [-1, 1]; "optimal": the batch's mean squared error, its maximum-likelihood value (Rybkin et al. 2020),
    whose running mean serves for evaluation. importance_samples: k of the IWAE; 1: the ELBO, with its KL in closed form.
    committed_rate: nats that z costs at least, as it is a sequence of numbers that the prior correlates and the posterior does
    not (delta-VAE; 0: p(z) = N(0, I)). kl_warmup_steps: beta grows linearly from 0 over these first steps (0: off). free_bits:
    nats per dimension (0: off). class_conditional: q(z|x, y) and p(x|z, y) see the label.

    `encode` draws from q(z|x); for reconstructions decode the mean of `posterior`. `decode` and `sample` give the decoder's
    mean, of images clipped to [-1, 1]. Likelihoods ignore beta, warm-up and free bits.

    Raises InputError for values out of range, for images that cannot be halved once per multiplier, for labels unless
    class_conditional, and for class_conditional without labels in the data.
    """
    _check(decoder, likelihood_variance, importance_samples, beta, kl_warmup_steps, free_bits)
    classes = classes_of(num_classes, class_conditional)
    net = with_labels(autoencoder(network, image_shape, latent_dim, 2 * latent_dim, dtype), classes)
    posterior, variance = gaussian_posterior(net.encode), variance_of(likelihood_variance)
    observation = bernoulli_observation() if decoder == "bernoulli" else gaussian_observation(variance)
    committed = sequence_prior(latent_dim, correlation_for(latent_dim, committed_rate)) if committed_rate else None
    prior = committed or standard_prior(latent_dim)
    optimal = likelihood_variance == OPTIMAL

    def init(key: Key, batch: Batch) -> Variables:
        # an untrained decoder returns about zero: its mean squared error is the mean square
        return Variables(net.init(key, batch), init_variance(jnp.mean(batch.x**2)) if optimal else {})

    def loss(params, state, key, batch, *, step, train):
        del key  # for dropout, which there is none of
        labels = None if classes is None else batch.labels
        q = posterior(params, batch.x, labels)
        answer = net.decode(params, reparameterize(*streams(batch.keys, "latent"), q.mean, q.logvar), labels)
        mse = jnp.mean((batch.x - observation.mean(answer)) ** 2, axis=range(1, batch.x.ndim))
        seen = state
        if train and optimal:
            sigma2 = jnp.maximum(batch_mean(jax.lax.stop_gradient(mse), axis_name), MIN_VARIANCE)
            state, seen = observe_variance(state, sigma2), {"likelihood_variance": sigma2}

        log_likelihood, kl = observation.log_prob(seen, batch.x, answer), prior.kl(q.mean, q.logvar)
        metrics = {
            "elbo": elbo(log_likelihood, kl).mean(),
            "reconstruction": -log_likelihood.mean(),
            "kl": kl.sum(1).mean(),
            "mse": mse.mean(),
        }
        weight = beta
        if kl_warmup_steps:
            weight = metrics["beta"] = beta * jnp.minimum(1.0, step / kl_warmup_steps)
        return metrics["reconstruction"] + weight * free_bits_kl(kl, free_bits, axis_name), (state, metrics)

    def iwae_loss(params, state, key, batch, *, step, train):
        del key, step, train
        labels = None if classes is None else batch.labels
        q, (keys,) = posterior(params, batch.x, labels), streams(batch.keys, "latent")

        def weight(k):
            keys_k, variables = jax.vmap(jax.random.fold_in, (0, None))(keys, k), Variables(params, state)
            return log_weight(net, prior, observation, variables, keys_k, batch.x, labels, q)

        log_likelihoods, log_ratios = jax.vmap(weight)(jnp.arange(importance_samples))
        kl, bound = prior.kl(q.mean, q.logvar).sum(1), iwae(log_likelihoods + log_ratios).mean()
        metrics = {
            "iwae": bound,
            "elbo": (log_likelihoods.mean(0) - kl).mean(),
            "reconstruction": -log_likelihoods.mean(),
            "kl": kl.mean(),
        }
        return -bound, (state, metrics)

    return latent_model(
        net,
        Objective("vae", loss if importance_samples == 1 else iwae_loss, after=update_variance if optimal else None),
        image_shape,
        latent_dim,
        prior=committed,
        observation=observation,
        init=init,
        posterior=posterior,
        likelihoods=bounds(net, posterior, observation, prior, classes),
        num_classes=classes,
    )


def _check(decoder, likelihood_variance, importance_samples, beta, kl_warmup_steps, free_bits) -> None:
    if decoder == "bernoulli" and likelihood_variance == OPTIMAL:
        raise InputError("likelihood_variance is of a Gaussian decoder: with decoder=bernoulli leave it out")
    if importance_samples > 1 and (beta != 1 or kl_warmup_steps or free_bits or likelihood_variance == OPTIMAL):
        raise InputError(
            "importance_samples above 1 has no KL term and a fixed variance: leave beta, kl_warmup_steps and free_bits out and "
            "likelihood_variance a number, or set importance_samples=1"
        )


# --- the decoder's variance where it is learnt (Rybkin et al. 2020) -----------------------------------------------------------
# To the gradient it is a constant: at the optimum the loss is stationary in it, and so no gradient crosses devices.


def variance_of(likelihood_variance: float | str) -> Callable[[PyTree], float | Float[Array, ""]]:
    """The variance that evaluation uses, as a function of the model's state."""
    return lambda state: state["likelihood_variance"] if likelihood_variance == OPTIMAL else likelihood_variance


def init_variance(value: Float[Array, ""]) -> PyTree:
    """The running mean, and what this update's microbatches have seen so far: the sum of their variances and their number."""
    return {"likelihood_variance": value, "seen": jnp.zeros(2)}


def observe_variance(state: PyTree, variance: Float[Array, ""]) -> PyTree:
    """The state after one more microbatch."""
    return {**state, "seen": state["seen"] + jnp.stack([variance, jnp.ones(())])}


def update_variance(params: PyTree, state: PyTree, *, step: Int[Array, ""]) -> PyTree:
    """The running mean moved once for an update, however many microbatches it had."""
    total, count = state["seen"]
    running = VARIANCE_DECAY * state["likelihood_variance"] + (1 - VARIANCE_DECAY) * total / count
    return init_variance(running)
