"""RAE: a regularised autoencoder (Ghosh et al. 2020, "From variational to deterministic autoencoders").

With z = encoder(x) the loss (eq. 11 to 13) is

  1/2 |x - decoder(z)|^2  +  beta 1/2 |z|^2  +  weight * penalty       sums over pixels and latent dimensions, batch mean

where the penalty keeps the decoder smooth, as the noise of a VAE does: "l2", 1/2 the squared norm of its weights, or
"gradient", the squared norm of its Jacobian in z. Spectral normalisation, the authors' third choice, is not offered.

It has no distribution of z and so no samples: `expost` fits one (section 4) to the latents of this model or any other.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gm_jax.core import Key, Model, Objective, PyTree, streams
from gm_jax.errors import InputError
from gm_jax.nets.autoencoders import autoencoder
from gm_jax.settings import Count, NonNegative, Section, checked
from gm_jax.variational import latent_model, with_labels


def squared_norm(weights: PyTree) -> Float[Array, ""]:
    """1/2 the sum of the squares of all kernels; biases are left alone."""
    return 0.5 * sum((leaf**2).sum() for leaf in jax.tree.leaves(weights) if leaf.ndim > 1)


def jacobian_norm(keys: Key, decode: Callable[[Array], Array], z: Float[Array, "batch latent"]) -> Float[Array, " batch"]:
    """|d decode(z) / dz|^2, the sum of the squares of its entries: an unbiased estimate, by a random sign for each pixel."""
    x, vjp = jax.vjp(decode, z)
    signs = jax.vmap(lambda key: jax.random.rademacher(key, x.shape[1:], x.dtype))(keys)
    return (vjp(signs)[0] ** 2).sum(1)


@checked
def make(
    image_shape: tuple[int, ...],
    dtype: Any = jnp.float32,
    *,
    network: Section("autoencoder") = {"name": "resnet"},  # noqa: B006 (read only)
    latent_dim: Count = 128,
    beta: NonNegative = 0.1,
    penalty: Literal["l2", "gradient", "none"] = "l2",
    weight: NonNegative = 0.01,
) -> Model:
    """The RAE of images of `image_shape` on the networks of the ConvVAE (which see, for network and latent_dim).

    beta: weight of |z|^2. penalty, weight: what keeps the decoder smooth, and how much it counts; "none": a plain autoencoder
    but for beta. `encode` is deterministic; `sample` is refused, see `expost`.

    Raises InputError for values out of range, and for images that cannot be halved once per multiplier.
    """
    net = with_labels(autoencoder(network, image_shape, latent_dim, latent_dim, dtype), None)

    def loss(params, state, key, batch, *, step, train):
        del key, step, train  # nothing is dropped, scheduled or remembered
        z = net.encode(params, batch.x)
        error = ((batch.x - net.decode(params, z)) ** 2).reshape(len(z), -1)
        metrics = {
            "reconstruction": 0.5 * error.sum(1).mean(),
            "latent_norm": 0.5 * (z**2).sum(1).mean(),
            "mse": error.mean(),
        }
        value = metrics["reconstruction"] + beta * metrics["latent_norm"]
        if penalty == "l2":
            metrics["penalty"] = squared_norm(params["decoder"])
        elif penalty == "gradient":
            signs = streams(batch.keys, "signs")[0]
            metrics["penalty"] = jacobian_norm(signs, lambda z: net.decode(params, z), z).mean()
        return value + weight * metrics.get("penalty", 0.0), (state, metrics)

    def sample(variables, keys, labels=None, **options):
        raise InputError("an RAE does not sample, as z has no distribution; train one on it: configs/expost.py:digits_rae")

    model = latent_model(net, Objective("rae", loss), image_shape, latent_dim)
    return model._replace(sample=sample, nfe=None)
