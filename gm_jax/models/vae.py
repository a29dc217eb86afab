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

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.core import Batch, Key, Model, Objective, Variables, batch_mean
from gm_jax.errors import InputError
from gm_jax.nets.resnet import resnet_autoencoder
from gm_jax.variational import (
    bounds,
    elbo,
    gaussian_kl,
    gaussian_log_prob,
    gaussian_posterior,
    latent_model,
    reparameterize,
)
from gm_jax.variational import (
    iwae as iwae,
)

OPTIMAL = "optimal"
VARIANCE_DECAY = 0.99  # of the running mean that evaluation uses, per training step
MIN_VARIANCE = 1 / 255**2  # half a uint8 level in [-1, 1]: a finer density says nothing about uint8 images


def free_bits(kl: Float[Array, "batch latent"], min_nats: float, axis_name: str | None = None) -> Float[Array, ""]:
    """Sum over dimensions of max(min_nats, batch mean of KL), in nats: below `min_nats` a dimension is not penalised.

    The maximum is taken after the mean over the (global) batch, so that single images may still use less.
    """
    return jnp.maximum(batch_mean(kl, axis_name), min_nats).sum()


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
    net = resnet_autoencoder(image_shape, latent_dim, 2 * latent_dim, channels, channel_multipliers, num_blocks, dtype)
    posterior = gaussian_posterior(net.encode)
    loss = _loss(posterior, net.decode, beta, likelihood_variance, kl_warmup_steps, free_bits, axis_name)

    def init(key: Key, batch: Batch) -> Variables:
        # an untrained decoder returns zero: its mean squared error is the mean square
        state = {"likelihood_variance": jnp.mean(batch.x**2)} if likelihood_variance == OPTIMAL else {}
        return Variables(net.init(key, batch.x), state)

    return latent_model(
        init,
        Objective("vae", loss),
        latent_dim,
        net.decode,
        posterior=posterior,
        likelihoods=bounds(posterior, net.decode, lambda state: _variance(likelihood_variance, state)),
    )


def _loss(posterior, decode, beta, likelihood_variance, kl_warmup_steps, min_nats, axis_name):
    def loss(params, state, key, batch, *, step, train):
        del key  # for dropout, which there is none of
        q = posterior(params, batch.x)
        x_mean = decode(params, reparameterize(batch.keys, *q))
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


def _check(likelihood_variance, **at_least_zero):
    if isinstance(likelihood_variance, str):
        if likelihood_variance != OPTIMAL:
            raise InputError(f"likelihood_variance={likelihood_variance!r} is unknown: give a number above 0 or {OPTIMAL!r}")
    elif not likelihood_variance > 0:
        raise InputError(f"likelihood_variance={likelihood_variance} must be above 0 (or {OPTIMAL!r})")
    for name, value in at_least_zero.items():
        if value < 0:
            raise InputError(f"{name}={value} must not be negative")
