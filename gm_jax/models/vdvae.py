"""Very deep VAEs: a hierarchy of many groups of latents (Child 2021, https://arxiv.org/abs/2011.10650).

  VDVAE   Child 2021, "Very deep VAEs generalize autoregressive models and can outperform them on images"
  output  Salimans et al. 2017, "PixelCNN++", eq. 2 and 3: a mixture of discretized logistics                       densities
  IWAE    Burda et al. 2015, "Importance weighted autoencoders", eq. 8                                            variational

With the groups of latents z_1 .. z_N, coarse ones first, and z_{<i} for those before the i-th

  p(x, z) = p(x|z) prod_i p(z_i | z_{<i})        q(z|x) = prod_i q(z_i | z_{<i}, x)

  -ELBO = E_q[-log p(x|z)] + E_q[sum_i KL(q(z_i | z_{<i}, x) || p(z_i | z_{<i}))]
           "distortion"      "rate"                                   in nats; the loss is their mean a pixel and channel

All p(z_i | ..) and q(z_i | ..) are diagonal Gaussians. In units of the prior, eps_i = (z_i - mean_i) / sigma_i is N(0, I),
whatever came before: so the whole hierarchy is one latent eps with the prior N(0, I), that of `encode` and `decode`.
"""

import math
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from gm_jax.conditioning import check_labels
from gm_jax.core import Batch, DiagonalGaussian, Images, Key, Likelihood, Model, Objective, PyTree, Variables, streams
from gm_jax.densities import (
    draw_logistic_mixture,
    logistic_mixture,
    logistic_mixture_log_prob,
    logistic_mixture_mean,
    mixture_size,
)
from gm_jax.errors import InputError
from gm_jax.images import to_float, to_uint8
from gm_jax.nets.vdvae_nets import VDVAENetwork, check_resolutions
from gm_jax.settings import Count, Positive, checked, within
from gm_jax.variational import gaussian_kl, iwae, standard_normal


def distortion(answer: Float[Array, "batch height width numbers"], images: UInt8[Array, "batch height width channel"]) -> Array:
    """-log p(x|z) in nats per image, [batch], of what the network answers to z."""
    mixture = logistic_mixture(answer, images.shape[-1])
    return -logistic_mixture_log_prob(images, mixture).sum((1, 2))


def rate(posterior: DiagonalGaussian) -> Float[Array, " batch"]:
    """sum_i KL(q(z_i | z_{<i}, x) || p(z_i | z_{<i})) in nats per image: in units of the prior that one is N(0, I)."""
    return gaussian_kl(*posterior).sum(1)


def log_ratio(posterior: DiagonalGaussian, noise: Float[Array, "batch latents"]) -> Float[Array, " batch"]:
    """log p(z) - log q(z|x) in nats, at eps = mean + sigma * noise of the posterior in units of the prior."""
    mean, logvar = posterior
    eps = mean + jnp.exp(logvar / 2) * noise
    return (noise**2 - eps**2 + logvar).sum(1) / 2


@checked
def make(
    image_shape: tuple[int, ...],
    dtype: Any = jnp.float32,
    *,
    resolutions: tuple[Count, ...] = (32, 16, 8, 4, 1),
    encoder_blocks: tuple[Count, ...] = (12, 7, 7, 4, 3),
    decoder_blocks: tuple[Count, ...] = (22, 11, 6, 3, 1),
    channels: Count = 384,
    hidden_channels: Count = 96,
    latent_channels: Count = 16,
    components: Count = 10,
    image_mean: Annotated[float, within(-1, 1)] = 0.0,
    image_std: Positive = 1.0,
) -> Model:
    """The VDVAE of square grey or RGB images; by default that of CIFAR-10, of 39,145,700 parameters and 43 groups of latents.

    resolutions: of the maps, the image's own first, each a multiple of the next. encoder_blocks, decoder_blocks: their numbers
    at each resolution; a block of the decoder has a group of latents, `latent_channels` at each place. channels,
    hidden_channels: of maps and inside blocks. components: logistics in the mixture of a pixel. image_mean, image_std: of the
    images in [-1, 1]; the network sees (x - mean) / std.

    Sampling option: `temperature` (1.0) multiplies the sigma of every prior. A sample is drawn from p(x|z), `decode` gives its
    mean. `encode` draws from q: of all groups in units of their prior, [n, latents], coarse ones first.
    Likelihoods, both with `samples`, the number of z per image: "elbo" and, slow, "iwae"; "rate" is the part of the latents.

    Raises InputError for images that are not square or of another size than the first resolution, for points, for channels
    other than 1 or 3, for resolutions that cannot be pooled, and for labels.
    """
    if len(image_shape) != 3 or image_shape[-1] not in (1, 3):
        raise InputError(f"vdvae is for grey or RGB images, not for data of the shape {image_shape}")
    *size, image_channels = image_shape
    check_resolutions(tuple(size), resolutions, encoder_blocks, decoder_blocks)
    dims = math.prod(image_shape)
    net = VDVAENetwork(
        mixture_size(image_channels, components),
        resolutions,
        encoder_blocks,
        decoder_blocks,
        channels,
        hidden_channels,
        latent_channels,
        image_mean,
        image_std,
        dtype,
    )

    def init(key: Key, batch: Batch) -> Variables:
        return Variables(net.init(key, jnp.zeros((1, net.latents)), batch.x[:1])["params"])

    def network(params: PyTree, noise: Array, x: Images | None = None):
        return net.apply({"params": params}, noise, x)

    def loss(params, state, key, batch: Batch, *, step, train):
        del key  # for dropout, which there is none of
        answer, posterior = network(params, standard_normal(*streams(batch.keys, "latents"), net.latents), batch.x)
        parts = {"distortion": distortion(answer, to_uint8(batch.x)).mean() / dims, "rate": rate(posterior).mean() / dims}
        nats = parts["distortion"] + parts["rate"]
        return nats, (state, parts | {"bits_per_dim": nats / math.log(2)})

    def sample(variables: Variables, keys: Key, labels=None, *, temperature: float = 1.0):
        check_labels(labels, None)
        _check_temperature(temperature)
        latent_keys, pixel_keys = streams(keys, "latents", "pixels")
        answer, _ = network(variables.params, temperature * standard_normal(latent_keys, net.latents))
        return draw_pixels(pixel_keys, answer, image_channels)

    def nfe(temperature: float = 1.0) -> int:
        _check_temperature(temperature)
        return 1

    def encode(variables: Variables, keys: Key, x, labels=None):
        check_labels(labels, None)
        noise = standard_normal(*streams(keys, "latents"), net.latents)
        _, (mean, logvar) = network(variables.params, noise, x)
        return mean + jnp.exp(logvar / 2) * noise

    def decode(variables: Variables, keys: Key, z, labels=None):
        del keys  # the mean is decoded, nothing is drawn
        check_labels(labels, None)
        answer, _ = network(variables.params, z)
        return jnp.clip(logistic_mixture_mean(logistic_mixture(answer, image_channels)), -1, 1)

    def terms(variables: Variables, keys: Key, images, samples: int):
        """Distortion, rate and log p(z) - log q(z|x), [samples, batch] each: one z per image at a time, to bound memory."""
        images = jnp.asarray(images)

        def once(k):
            now = jax.vmap(jax.random.fold_in, (0, None))(keys, k)
            noise = standard_normal(*streams(now, "latents"), net.latents)
            answer, posterior = network(variables.params, noise, to_float(images))
            return distortion(answer, images), rate(posterior), log_ratio(posterior, noise)

        return jax.lax.map(once, jnp.arange(samples))

    def elbo_nats(variables: Variables, keys: Key, images, labels=None, *, samples: Count = 1):
        check_labels(labels, None)
        of_pixels, of_latents, _ = terms(variables, keys, images, samples)
        return (of_pixels + of_latents).mean(0)

    def iwae_nats(variables: Variables, keys: Key, images, labels=None, *, samples: Count = 64):
        check_labels(labels, None)
        of_pixels, _, ratios = terms(variables, keys, images, samples)
        return -iwae(ratios - of_pixels)

    def rate_nats(variables: Variables, keys: Key, images, labels=None, *, samples: Count = 1):
        check_labels(labels, None)
        return terms(variables, keys, images, samples)[1].mean(0)

    return Model(
        init=init,
        objectives=(Objective("vdvae", loss),),
        sample=sample,
        nfe=nfe,
        encode=encode,
        decode=decode,
        likelihoods=(
            Likelihood("elbo", "bound", elbo_nats),
            Likelihood("rate", "code", rate_nats),
            Likelihood("iwae", "bound", iwae_nats, slow=True),
        ),
    )


def draw_pixels(keys: Key, answer: Float[Array, "batch height width numbers"], channels: int) -> Images:
    """x ~ p(x|z) in [-1, 1], one image a key."""

    def one(key, answer):
        height, width, _ = answer.shape
        pixels = logistic_mixture(answer.reshape(height * width, -1), channels)
        return draw_logistic_mixture(jax.random.split(key, height * width), pixels).reshape(height, width, channels)

    return to_float(jax.vmap(one)(keys, answer))


def _check_temperature(temperature: float) -> None:
    if not temperature >= 0:
        raise InputError(f"temperature={temperature} must be at least 0")
