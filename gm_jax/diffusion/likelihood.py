"""The variational bound on the likelihood of images under a discrete diffusion chain (Ho et al. 2020, sections 3.1-3.4).

-log p(x0) <= L_T + sum_{t=2..T} L_{t-1} + L_0 with L_T the KL divergence of q(x_T | x0) from the prior, L_{t-1} that of
q(x_{t-1} | x_t, x0) from p(x_{t-1} | x_t), and L_0 the code length of the uint8 image given x_1. All in nats per image.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, UInt8

from gm_jax.densities import discretized_gaussian_log_prob
from gm_jax.diffusion.paths import Denoiser, Path, add_noise, posterior
from gm_jax.diffusion.samplers import normal, reverse_variance

PerImage = Float[Array, " batch"]
ByteImages = UInt8[Array, "batch *shape"]


def variational_bound(
    path: Path,
    denoiser: Denoiser,
    keys: Array,
    images: ByteImages,
    *,
    variance: str = "fixed_large",
    terms: int = 20,
    full: bool = False,
) -> PerImage:
    """An unbiased estimate of the bound, in nats per image.

    Args:
      path: a `discrete_path` of T steps.
      keys: [batch] one key per image; noise and times are drawn from it.
      images: uint8.
      variance: of the reverse steps, "fixed_large" or "fixed_small".
      terms: denoiser evaluations per image. The steps t = 1..T are cut into so many strata, fine where the terms vary most
        (small t), and one step is drawn in each; t = 1 is always evaluated. At least 2; T or more is `full`.
      full: evaluate all T steps. The only randomness left is the noise in x_t.
    """
    T = int(path.t_max)
    lower, size = strata(T, T if full else min(terms, T))

    def add_stratum(total, stratum):
        k, low, count = stratum
        u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, 0), k)))(keys)
        t = low + jnp.minimum((u * count).astype(jnp.int32), count - 1)
        return total + count * bound_term(path, denoiser, keys, images, t, variance), None

    steps = (jnp.arange(len(lower)), jnp.asarray(lower), jnp.asarray(size))
    return jax.lax.scan(add_stratum, prior_kl(path, images), steps)[0]


def strata(T: int, n: int) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """First element and size of n consecutive strata of 1..T: t = 1 alone, the others' edges quadratic in their index."""
    if not 2 <= n <= T:
        raise ValueError(f"the bound of a chain of {T} steps takes between 2 and {T} terms, not {n}")
    index = np.arange(n)
    edges = np.append(1, 2 + np.floor((T - 1) * (index / (n - 1)) ** 2).astype(int))
    # no stratum may be empty: push edges up from the left, then down from the right
    edges = np.maximum(edges, np.arange(n + 1) + 1)
    edges = np.minimum(edges, T + 1 - np.arange(n, -1, -1))
    return edges[:-1], np.diff(edges)


def prior_kl(path: Path, images: ByteImages) -> PerImage:
    """L_T: the KL divergence of q(x_T | x0) from N(0, sigma_T^2 I), the noise that sampling starts from."""
    t = jnp.asarray(path.t_max)
    return _sum((path.alpha(t) * _to_float(images)) ** 2) / (2 * path.sigma(t) ** 2)


def bound_term(
    path: Path, denoiser: Denoiser, keys: Array, images: ByteImages, t: Int[Array, " batch"], variance: str = "fixed_large"
) -> PerImage:
    """One draw of L_{t-1} per image, for steps 1 <= t <= T. The noise of image i at step t comes from fold_in(keys[i], t)."""
    x0 = _to_float(images)
    eps = normal(jax.vmap(jax.random.fold_in)(keys, t), x0.shape[1:])
    time = t.astype(jnp.float32)
    x0_hat = denoiser(add_noise(path, x0, eps, time), time)

    q = posterior(path, jnp.maximum(time, 2.0), jnp.maximum(time, 2.0) - 1.0)  # at t = 1 the decoder takes over
    p_variance = reverse_variance(variance)(q)
    ratio = q.variance / p_variance
    pixels = x0[0].size
    kl = pixels * (ratio - 1 - jnp.log(ratio)) / 2 + q.of_x0**2 * _sum((x0 - x0_hat) ** 2) / (2 * p_variance)

    # the last reverse step has mean x0_hat; its variance, 0 or beta_1 by the rule, is set to beta-tilde_2 as in the
    # authors' code
    decoder_variance = posterior(path, jnp.asarray(2.0), jnp.asarray(1.0)).variance
    code_length = -_sum(discretized_gaussian_log_prob(images, x0_hat, decoder_variance))
    return jnp.where(t == 1, code_length, kl)


def _to_float(images):
    return images.astype(jnp.result_type(float)) / 127.5 - 1


def _sum(values):
    return values.sum(axis=tuple(range(1, values.ndim)))
