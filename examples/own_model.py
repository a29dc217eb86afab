"""Probabilistic PCA (Tipping & Bishop 1999): a whole model in one file, as yours may be.

  x = W z + mean + eps,    z ~ N(0, I),    eps ~ N(0, variance I)        eq. 2

so that x ~ N(mean, W W^T + variance I) has a density in closed form (eq. 6), and so has p(z|x) (eq. 8). It is trained by
gradient here, though its maximum has a closed form, too: the principal components (eq. 14-15).
"""

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from gm_jax.conditioning import check_labels
from gm_jax.core import Batch, DiagonalGaussian, Key, Likelihood, Model, Objective, PyTree, Variables
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.settings import Count
from gm_jax.variational import reparameterize, standard_normal


def log_prob(params: PyTree, x: Float[Array, "batch size"]) -> Float[Array, " batch"]:
    """log N(x; mean, W W^T + variance I) in nats (eq. 6), by matrices of the latent's size (Woodbury's identity)."""
    W, variance = params["W"], jnp.exp(params["log_variance"])
    size, latent_dim = W.shape
    root = jnp.linalg.cholesky(W.T @ W + variance * jnp.eye(latent_dim))
    error = x - params["mean"]
    explained = solve_triangular(root, W.T @ error.T, lower=True)
    mahalanobis = ((error**2).sum(1) - (explained**2).sum(0)) / variance
    log_det = 2 * jnp.log(jnp.diag(root)).sum() + (size - latent_dim) * params["log_variance"]
    return -0.5 * (mahalanobis + log_det + size * jnp.log(2 * jnp.pi))


def principal(params: PyTree) -> tuple[Float[Array, "size latent"], Float[Array, " latent"]]:
    """U and s of W = U diag(s) V^T. z may be rotated at will: in the frame of V its posterior is diagonal."""
    return jnp.linalg.svd(params["W"], full_matrices=False)[:2]


def make(image_shape: tuple[int, ...], *, latent_dim: Count = 16) -> Model:
    """Probabilistic PCA with `latent_dim` components, of images in [-1, 1]; fewer than an image has numbers, else InputError.

    Like the VAE it samples and decodes to the mean, without eps. Its likelihood "dequantized" is the exact density of
    x + u, u uniform within the bin of a level: in expectation a bound of the discrete likelihood (Theis et al. 2016, eq. 6).
    """
    size = image_shape[0] * image_shape[1] * image_shape[2]
    if not 0 < latent_dim < size:
        raise InputError(f"latent_dim={latent_dim} is not between 1 and {size - 1}, the numbers of an image less one")

    def flat(x):
        return x.reshape(len(x), size)

    def init(key: Key, batch: Batch) -> Variables:
        W = 0.1 * jax.random.normal(key, (size, latent_dim))
        return Variables({"W": W, "mean": flat(batch.x).mean(0), "log_variance": jnp.log(batch.x.var())})

    def loss(params, state, key, batch, *, step, train):
        nll = -log_prob(params, flat(batch.x)).mean()
        return nll, (state, {"nll": nll, "variance": jnp.exp(params["log_variance"])})

    def posterior(variables, x, labels=None):
        check_labels(labels, None)
        U, s = principal(variables.params)
        variance = jnp.exp(variables.params["log_variance"])
        mean = (flat(x) - variables.params["mean"]) @ U * s / (s**2 + variance)  # eq. 8
        return DiagonalGaussian(mean, jnp.broadcast_to(jnp.log(variance / (s**2 + variance)), mean.shape))

    def encode(variables, keys, x, labels=None):
        return reparameterize(keys, *posterior(variables, x, labels))

    def decode(variables, keys, z, labels=None):
        check_labels(labels, None)
        U, s = principal(variables.params)
        return jnp.clip(z * s @ U.T + variables.params["mean"], -1, 1).reshape(-1, *image_shape)

    def sample(variables, keys, labels=None):
        return decode(variables, keys, standard_normal(keys, latent_dim), labels)

    def dequantized(variables, keys, images, labels=None):
        check_labels(labels, None)
        noise = jax.vmap(lambda key: jax.random.uniform(key, image_shape, minval=-1, maxval=1))(keys)
        density = log_prob(variables.params, flat(to_float(images) + noise / 255))
        return -density - size * jnp.log(2 / 255)  # a level's bin is 2 / 255 wide

    return Model(
        init=init,
        objectives=(Objective("ppca", loss),),
        sample=sample,
        nfe=lambda: 1,
        encode=encode,
        decode=decode,
        posterior=posterior,
        likelihoods=(Likelihood("dequantized", "bound", dequantized),),
    )
