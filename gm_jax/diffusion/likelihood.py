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
from gm_jax.diffusion.paths import Denoiser, Images, Path, Time, add_noise, like, posterior
from gm_jax.diffusion.samplers import ShareOf, between, normal, reverse_variance

PerImage = Float[Array, " batch"]
ByteImages = UInt8[Array, "batch *shape"]


def variational_bound(
    path: Path,
    denoiser: Denoiser,
    keys: Array,
    images: ByteImages,
    *,
    variance: str = "fixed_large",
    share_of: ShareOf | None = None,
    terms: int = 20,
    full: bool = False,
) -> PerImage:
    """An unbiased estimate of the bound, in nats per image.

    Args:
      path: a `discrete_path` of T steps.
      keys: [batch] one key per image; noise and times are drawn from it.
      images: uint8.
      variance, share_of: of the reverse steps, see `samplers.ancestral`.
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
        return total + count * bound_term(path, denoiser, keys, images, t, variance, share_of), None

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
    path: Path,
    denoiser: Denoiser,
    keys: Array,
    images: ByteImages,
    t: Int[Array, " batch"],
    variance: str = "fixed_large",
    share_of: ShareOf | None = None,
) -> PerImage:
    """One draw of L_{t-1} per image, for steps 1 <= t <= T. The noise of image i at step t comes from fold_in(keys[i], t)."""
    x0 = _to_float(images)
    eps = normal(jax.vmap(jax.random.fold_in)(keys, t), x0.shape[1:])
    time = t.astype(jnp.float32)
    x_t = add_noise(path, x0, eps, time)
    share = None if share_of is None else share_of(x_t, time)
    return term(path, images, time, denoiser(x_t, time), variance, share)


def term(
    path: Path, images: ByteImages, t: Time, x0_hat: Images, variance: str = "fixed_large", share: Images | None = None
) -> PerImage:
    """L_{t-1} of each image from the estimate of x0, at the steps t.

    share: of beta in the logarithm of the reverse step's variance, 1 - share of beta-tilde (Nichol & Dhariwal 2021, eq. 15);
    None: that of the name `variance`.
    """
    x0 = _to_float(images)
    q = posterior(path, jnp.maximum(t, 2.0), jnp.maximum(t, 2.0) - 1.0)  # at t = 1 the decoder takes over
    p_variance = like(reverse_variance(variance)(q), x0) if share is None else between(q.variance, q.transition, share)
    ratio = jnp.broadcast_to(like(q.variance, x0) / p_variance, x0.shape)
    distance = like(q.of_x0, x0) ** 2 * (x0 - x0_hat) ** 2 / p_variance
    kl = _sum(ratio - 1 - jnp.log(ratio) + distance) / 2

    # The last reverse step has mean x0_hat; its variance, 0 or beta_1 by the rule, is set to beta-tilde_2 as in the authors'
    # code, or lies between the two.
    first, smallest = (posterior(path, jnp.asarray(t), jnp.asarray(t - 1)) for t in (1.0, 2.0))
    last = smallest.variance if share is None else between(smallest.variance, first.transition, share)
    code_length = -_sum(discretized_gaussian_log_prob(images, x0_hat, last))
    return jnp.where(t == 1, code_length, kl)


def _to_float(images):
    return images.astype(jnp.result_type(float)) / 127.5 - 1


def _sum(values):
    return values.sum(axis=tuple(range(1, values.ndim)))
