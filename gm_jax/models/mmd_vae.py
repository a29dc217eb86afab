"""MMD-VAE: an autoencoder whose aggregate posterior is matched to the prior, instead of every single posterior.

  InfoVAE, MMD-VAE   Zhao et al. 2017, "InfoVAE: Information maximizing variational autoencoders"      eq. 6, section 3.3
  MMD                Gretton et al. 2012, "A kernel two-sample test"                                   eq. 3 (unbiased), 5
  WAE-MMD            Tolstikhin et al. 2018, "Wasserstein auto-encoders"                               algorithm 2, section 4

With q(z) the mean of q(z|x) over the data, p(z) = N(0, I) and p(x|z) = N(decoder(z), sigma^2 I) the loss is

  -E_q[log p(x|z)] + (1 - alpha) KL(q(z|x) || p(z)) + (alpha + lambda - 1) MMD^2(q(z), p(z))      nats per image.

alpha = 1 is the MMD-VAE: no KL, lambda MMD^2; with a deterministic encoder it is the WAE. alpha = 0, lambda = 1 is the VAE.

The scale of lambda goes with that of the reconstruction, which here is the negative log-likelihood, summed over the pixels. The
authors take lambda = 1 with the squared error *averaged* over the pixels (their published example, MNIST), and 1000 with a
summed log-likelihood. A squared error is a log-likelihood times 2 sigma^2: so lambda sigma^2 tells settings apart.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gm_jax.core import Model, Objective, batch_gather, streams
from gm_jax.densities import gaussian_log_prob
from gm_jax.errors import InputError, choose
from gm_jax.nets.autoencoders import autoencoder
from gm_jax.settings import Count, NonNegative, Positive, Section, checked
from gm_jax.variational import (
    bounds,
    elbo,
    gaussian_kl,
    gaussian_observation,
    gaussian_posterior,
    latent_model,
    reparameterize,
    standard_normal,
    standard_prior,
    with_labels,
)

Kernel = Callable[[Array], Array]  # squared distances -> similarities, 1 at distance 0


def rbf(bandwidth: float) -> Kernel:
    """exp(-|x - y|^2 / bandwidth)."""
    return lambda squared_distance: jnp.exp(-squared_distance / bandwidth)


def inverse_multiquadratic(bandwidth: float) -> Kernel:
    """C / (C + |x - y|^2) with C = bandwidth: of heavier tails, so that stray points feel it too (WAE, section 4)."""
    return lambda squared_distance: bandwidth / (bandwidth + squared_distance)


KERNELS = {"rbf": rbf, "imq": inverse_multiquadratic}
BANDWIDTHS = {  # name -> bandwidth in so many dimensions
    # Zhao et al.'s exp(-mean((x - y)^2) / d): so wide that in many dimensions it compares little but the means
    "authors": lambda latent_dim: float(latent_dim**2),
    # E|x - y|^2 of two draws from the prior: the WAE's C = 2 d sigma_z^2
    "prior": lambda latent_dim: 2.0 * latent_dim,
}
ESTIMATORS = {  # of E k(x, x') for independent x and x', from the matrix of all pairs
    "biased": jnp.mean,
    "unbiased": lambda pairs: (pairs.sum() - jnp.trace(pairs)) / (len(pairs) * (len(pairs) - 1)),
}


def mmd(
    x: Float[Array, "n latent"], y: Float[Array, "m latent"], kernel: Kernel, estimator: str = "unbiased"
) -> Float[Array, ""]:
    """Squared maximum mean discrepancy E k(x, x') + E k(y, y') - 2 E k(x, y) of two samples (Gretton et al. 2012).

    "unbiased": the U-statistic, without the pairs of a point with itself; its mean is 0 for equal distributions, so that it is
    often negative. "biased": the V-statistic, with them; never negative, and for equal distributions and n = m its mean is
    (2 / n) (1 - E k(x, x')). Raises InputError for another estimator, and for an unbiased one of fewer than 2 points.
    """
    within = choose(ESTIMATORS, estimator, "estimator")
    if estimator == "unbiased" and min(len(x), len(y)) < 2:
        raise InputError("the unbiased MMD needs at least 2 examples a batch: enlarge it, or choose estimator=biased")

    def pairs(a, b):  # differences first: |a|^2 + |b|^2 - 2 a.b would lose digits
        return kernel(((a[:, None] - b[None]) ** 2).sum(-1))

    return within(pairs(x, x)) + within(pairs(y, y)) - 2 * pairs(x, y).mean()


@checked
def make(
    image_shape: tuple[int, ...],
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    *,
    network: Section("autoencoder") = {"name": "resnet"},  # noqa: B006 (read only)
    latent_dim: Count = 128,
    encoder: Literal["gaussian", "deterministic"] = "gaussian",
    alpha: float = 1.0,
    mmd_weight: NonNegative = 10_000.0,
    kernel: Literal["rbf", "imq"] = "imq",
    bandwidth: Positive | Literal["authors", "prior"] = "prior",
    estimator: Literal["unbiased", "biased"] = "unbiased",
    likelihood_variance: Positive = 0.02,
) -> Model:
    """The MMD-VAE on the networks of the ConvVAE (which see, for network and latent_dim).

    encoder: "gaussian", or "deterministic", which has no posterior and no likelihoods. alpha, mmd_weight (lambda): see above.
    kernel: "rbf" or "imq"; its bandwidth: a number in units of |z - z'|^2, or "authors" (latent_dim^2), or "prior"
    (2 latent_dim). estimator: "unbiased" or "biased". likelihood_variance: sigma^2 of the decoder for images in [-1, 1].

    The MMD compares the batch, over all devices, with as many draws from the prior. Raises InputError for unknown names, for
    values out of range, for images that cannot be halved once per multiplier, and for labels.
    """
    _check(encoder, alpha, mmd_weight)
    similarity = KERNELS[kernel](BANDWIDTHS[bandwidth](latent_dim) if isinstance(bandwidth, str) else bandwidth)
    features = {"gaussian": 2, "deterministic": 1}[encoder] * latent_dim
    net = with_labels(autoencoder(network, image_shape, latent_dim, features, dtype), None)
    posterior = gaussian_posterior(net.encode) if encoder == "gaussian" else None
    observation = gaussian_observation(lambda _: likelihood_variance)

    def draw(params, keys, x):
        """(z, KL(q(z|x) || p(z)) or None)"""
        if posterior is None:
            return net.encode(params, x), None
        q = posterior(params, x)
        return reparameterize(keys, q.mean, q.logvar), gaussian_kl(q.mean, q.logvar)

    def loss(params, state, key, batch, *, step, train):
        del key, step, train  # nothing is dropped, scheduled or remembered
        posterior_keys, prior_keys = streams(batch.keys, "latent", "prior")
        z, kl = draw(params, posterior_keys, batch.x)
        x_mean = net.decode(params, z)
        log_likelihood = gaussian_log_prob(batch.x, x_mean, likelihood_variance)
        samples = (batch_gather(a, axis_name) for a in (z, standard_normal(prior_keys, latent_dim)))
        metrics = {
            "reconstruction": -log_likelihood.mean(),
            "mmd": mmd(*samples, similarity, estimator),
            "mse": jnp.mean((batch.x - x_mean) ** 2),
        }
        value = metrics["reconstruction"] + (alpha + mmd_weight - 1) * metrics["mmd"]
        if kl is not None:
            metrics |= {"kl": kl.sum(1).mean(), "elbo": elbo(log_likelihood, kl).mean()}
            value += (1 - alpha) * metrics["kl"]
        return value, (state, metrics)

    return latent_model(
        net,
        Objective("mmd_vae", loss),
        image_shape,
        latent_dim,
        posterior=posterior,
        likelihoods=bounds(net, posterior, observation, standard_prior(latent_dim)) if posterior else (),
    )


def _check(encoder: str, alpha: float, mmd_weight: float) -> None:
    if alpha > 1 or alpha + mmd_weight < 1:
        raise InputError(
            f"alpha={alpha}, mmd_weight={mmd_weight} reward what they should penalise: alpha <= 1 <= alpha + mmd_weight"
        )
    if encoder == "deterministic" and alpha != 1:
        raise InputError(
            f"alpha={alpha} weighs a KL that a deterministic encoder makes infinite: set alpha=1 or encoder=gaussian"
        )
