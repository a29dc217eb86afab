"""The densities, divergences and bounds of Gaussian latents, against Monte Carlo and against a model that is solved exactly."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gm_jax.variational import elbo, gaussian_kl, gaussian_log_prob, iwae, reparameterize


def test_gaussian_kl_is_the_mean_log_ratio_of_the_densities():
    mean, logvar = jnp.array([[0.0, 1.0, -2.0, 0.3]]), jnp.array([[0.0, 0.0, 1.0, -3.0]])
    n = 100_000
    z = reparameterize(jax.random.split(jax.random.key(0), n), mean, logvar)
    scale = np.exp(0.5 * np.asarray(logvar))
    log_ratio = stats.norm.logpdf(z, mean, scale) - stats.norm.logpdf(z)
    standard_error = log_ratio.std(0) / math.sqrt(n)
    assert np.all(np.abs(gaussian_kl(mean, logvar)[0] - log_ratio.mean(0)) <= 4 * standard_error + 1e-6)
    np.testing.assert_allclose(gaussian_kl(mean, logvar)[0, :2], [0.0, 0.5], atol=1e-7)


def test_gaussian_kl_of_a_nearly_standard_posterior_keeps_its_digits():
    np.testing.assert_allclose(gaussian_kl(jnp.zeros((1, 1)), jnp.full((1, 1), 1e-2)), [[2.5083542e-5]], rtol=1e-2)


def test_gaussian_log_prob_agrees_with_scipy():
    x, mean = np.random.default_rng(0).normal(size=(2, 5, 3, 2)).astype(np.float32)
    variance = np.linspace(0.1, 2, 6, dtype=np.float32).reshape(3, 2)
    expected = stats.norm.logpdf(x, mean, np.sqrt(variance)).sum((1, 2))
    np.testing.assert_allclose(gaussian_log_prob(x, mean, variance), expected, rtol=1e-5)


@pytest.fixture(scope="module")
def linear_gaussian():
    """x = W z + noise with z ~ N(0, I): log p(x) and the posterior are known. Bounds as functions of q's mean, logvar and k."""
    weight = jnp.array([[1.0, 0.5], [-0.3, 0.8], [0.2, -1.0]])
    variance, x = 0.3, jnp.array([0.7, -1.1, 0.4])
    exact = stats.multivariate_normal.logpdf(x, cov=weight @ weight.T + variance * np.eye(3))
    covariance = np.linalg.inv(np.eye(2) + weight.T @ weight / variance)

    def terms(mean, logvar, k, n=2000):
        mean, logvar = jnp.broadcast_to(mean, (k * n, 2)), jnp.broadcast_to(logvar, (k * n, 2))
        z = reparameterize(jax.random.split(jax.random.key(k), k * n), mean, logvar)
        log_likelihood = gaussian_log_prob(x, z @ weight.T, variance)
        log_weights = log_likelihood + gaussian_log_prob(z, 0.0, 1.0) - gaussian_log_prob(z, mean, jnp.exp(logvar))
        return elbo(log_likelihood, gaussian_kl(mean, logvar)), log_weights.reshape(k, n)

    return exact, covariance @ weight.T @ x / variance, covariance, terms


def mean_and_error(values):
    values = np.asarray(values, np.float64)
    return values.mean(), values.std() / math.sqrt(len(values))


def test_elbo_then_iwae_then_exact(linear_gaussian):
    exact, mean, covariance, terms = linear_gaussian
    q = (mean + 0.2, np.log(2 * np.diag(covariance)))  # deliberately off
    bound, bound_error = mean_and_error(terms(*q, 1)[0])
    estimates = [mean_and_error(iwae(terms(*q, k)[1])) for k in (1, 4, 32)]
    assert abs(bound - estimates[0][0]) < 4 * math.hypot(bound_error, estimates[0][1])
    rising = [estimates[0], estimates[1], estimates[2], (exact, 0.0)]
    for (low, low_error), (high, high_error) in zip(rising[:2], rising[1:3], strict=True):
        assert high - low > 4 * math.hypot(low_error, high_error)
    assert exact - 0.1 < estimates[2][0] < exact + 4 * estimates[2][1]


def test_the_gap_of_the_elbo_is_the_kl_to_the_true_posterior(linear_gaussian):
    exact, mean, covariance, terms = linear_gaussian
    # the true posterior is correlated: the best diagonal q misses it by a KL that is known, and that is the whole gap
    logvar = -np.log(np.diag(np.linalg.inv(covariance)))
    gap = 0.5 * (np.linalg.slogdet(covariance)[1] - logvar.sum())
    bound, error = mean_and_error(terms(mean, logvar, 1)[0])
    assert abs(bound + gap - exact) < 4 * error + 1e-5


def test_importance_weights_under_the_exact_posterior_are_constant():
    weight, variance, x = 1.4, 0.3, 0.7  # one latent dimension, so that the exact posterior is diagonal
    posterior_variance = 1 / (1 + weight**2 / variance)
    mean, logvar = (
        jnp.full((50, 1), posterior_variance * weight * x / variance),
        jnp.full((50, 1), math.log(posterior_variance)),
    )
    z = reparameterize(jax.random.split(jax.random.key(0), 50), mean, logvar)
    log_likelihood = gaussian_log_prob(jnp.full((50, 1), x), weight * z, variance)
    log_weights = log_likelihood + gaussian_log_prob(z, 0.0, 1.0) - gaussian_log_prob(z, mean, jnp.exp(logvar))
    exact = stats.norm.logpdf(x, scale=math.sqrt(weight**2 + variance))
    np.testing.assert_allclose(log_weights, np.full(50, exact), atol=1e-5)
    np.testing.assert_allclose(iwae(log_weights[:, None]), [exact], atol=1e-5)
