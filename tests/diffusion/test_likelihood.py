from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.densities import discretized_gaussian_log_prob
from gm_jax.diffusion import likelihood
from gm_jax.diffusion.paths import add_noise, discrete_path, posterior
from gm_jax.diffusion.samplers import normal
from gm_jax.models.ddpm import get_beta_schedule
from tests.diffusion.gaussian import denoiser

T = 100
PATH = discrete_path(get_beta_schedule("linear", T))
MEAN, STD = 0.1, 0.3
DENOISER = denoiser(PATH, MEAN, STD)
LEVELS = jnp.arange(256, dtype=jnp.uint8)


@pytest.fixture(scope="module")
def images():
    """One-pixel images whose levels follow a discretized N(MEAN, STD^2)."""
    log_prob = discretized_gaussian_log_prob(LEVELS, jnp.full(256, MEAN), STD**2)
    return jax.random.categorical(jax.random.key(0), log_prob, shape=(4000, 1, 1, 1)).astype(jnp.uint8)


@pytest.fixture(scope="module")
def keys(images):
    return jax.random.split(jax.random.key(1), len(images))


def test_strata_partition_the_steps():
    for steps in (2, 3, 10, 37, 1000):
        for n in {2, 3, min(7, steps), steps // 2, steps - 1, steps} - {0, 1}:
            if n <= steps:
                lower, size = likelihood.strata(steps, n)
                assert len(lower) == n and np.all(size >= 1) and size.sum() == steps
                np.testing.assert_array_equal(lower, 1 + np.append(0, np.cumsum(size)[:-1]))
                assert size[0] == 1
    with pytest.raises(ValueError, match="between 2 and 10"):
        likelihood.strata(10, 1)


@partial(jax.jit, static_argnames=("variance", "terms", "full"))
def estimate(keys, images, **options):
    return likelihood.variational_bound(PATH, DENOISER, keys, images, **options)


@jax.jit
def all_terms(keys, images):
    """The prior's term and those of every step, one by one: [1 + T, batch]."""
    term = lambda t: likelihood.bound_term(PATH, DENOISER, keys, images, jnp.full(len(images), t))  # noqa: E731
    return jnp.append(likelihood.prior_kl(PATH, images)[None], jax.vmap(term)(jnp.arange(1, T + 1)), axis=0)


def test_full_sum_adds_the_prior_and_every_term(images, keys):
    full, one_per_stratum = estimate(keys, images, full=True), estimate(keys, images, terms=T)
    np.testing.assert_allclose(full, all_terms(keys, images).sum(0), rtol=1e-4)
    np.testing.assert_array_equal(full, one_per_stratum)


def test_stratified_estimate_is_unbiased(images, keys):
    full = all_terms(keys, images).sum(0)
    for terms in (2, 8):
        difference = np.asarray(estimate(keys, images, terms=terms) - full, np.float64)
        assert difference.std() > 0
        assert abs(difference.mean()) < 4 * difference.std() / len(images) ** 0.5


def test_prior_term_is_the_kl_divergence_from_the_noise_that_sampling_starts_from(images):
    alpha, sigma = float(PATH.alpha(T)), float(PATH.sigma(T))
    x0 = float(images[0, 0, 0, 0]) / 127.5 - 1
    np.testing.assert_allclose(likelihood.prior_kl(PATH, images[:1]), (alpha * x0 / sigma) ** 2 / 2, rtol=1e-4)


@pytest.mark.parametrize("variance, waste", [("fixed_small", 1.5), ("fixed_large", 0.15)])
def test_bound_is_above_the_entropy_of_the_data_and_near_it(images, keys, variance, waste):
    """The denoiser is the best there is; a fixed reverse variance wastes some nats, beta-tilde more than beta."""
    log_prob = discretized_gaussian_log_prob(LEVELS, jnp.full(256, MEAN), STD**2)
    entropy = -jnp.sum(jnp.exp(log_prob) * log_prob)
    nats = estimate(keys, images, variance=variance, full=True)
    error = nats.std() / len(nats) ** 0.5
    assert entropy - 3 * error < nats.mean() < entropy + waste + 3 * error


def test_kl_terms_equal_the_quadrature_of_the_two_gaussians(images, keys):
    t = 20
    term = all_terms(keys, images)[t, 0]
    x0 = images[:1] / 127.5 - 1
    x_t = add_noise(PATH, x0, normal(jax.vmap(jax.random.fold_in, (0, None))(keys[:1], t), (1, 1, 1)), float(t))
    q = posterior(PATH, jnp.float32(t), jnp.float32(t - 1))
    grid = np.linspace(-8, 8, 200_001)
    log_q, log_p = (
        -((grid - float((q.of_x0 * x + q.of_x_t * x_t).squeeze())) ** 2) / (2 * v) - 0.5 * np.log(2 * np.pi * v)
        for x, v in ((x0, float(q.variance)), (DENOISER(x_t, float(t)), float(q.transition)))
    )
    np.testing.assert_allclose(term, np.trapezoid(np.exp(log_q) * (log_q - log_p), grid), rtol=1e-3)
