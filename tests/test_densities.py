"""Densities of Gaussians, probabilities of uint8 levels under them, and the mean over classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_ndtr, logsumexp

from gm_jax.densities import discretized_gaussian_log_prob, gaussian_log_prob, marginal_over_classes

LEVELS = np.arange(256, dtype=np.uint8)
MEANS = np.array([-1.7, -1.0, -0.4521, 0.0, 1 / 255, 0.9, 1.3, 3.0], np.float32)[:, None]


@pytest.mark.parametrize("variance", [1e-6, 1.6e-5, 1e-3, 0.02, 1.0, 900.0])
def test_the_256_levels_sum_to_one(variance):
    log_prob = discretized_gaussian_log_prob(LEVELS[None], MEANS, variance)
    assert np.isfinite(log_prob).all()
    np.testing.assert_allclose(np.exp(np.asarray(log_prob, np.float64)).sum(1), 1, atol=2e-4)


@pytest.mark.parametrize("variance", [1e-5, 0.02, 1.0])
def test_exact_into_the_tails(variance):
    mean, scale = 0.3, np.sqrt(variance)
    x = LEVELS / 127.5 - 1
    lower, upper = (x - 1 / 255 - mean) / scale, (x + 1 / 255 - mean) / scale
    lower[0], upper[-1] = -np.inf, np.inf
    # in float64, from whichever tail is nearer
    near, far = np.where(x > mean, -lower, upper), np.where(x > mean, -upper, lower)
    expected = log_ndtr(near) + np.log1p(-np.exp(log_ndtr(far) - log_ndtr(near)))
    log_prob = discretized_gaussian_log_prob(LEVELS, jnp.full(256, mean), variance)
    np.testing.assert_allclose(log_prob, expected, rtol=2e-4, atol=2e-4)


def test_tends_to_density_times_bin_width():
    x, std = LEVELS[1:-1] / 127.5 - 1, 2.0
    density = jax.scipy.stats.norm.logpdf(x, 0.2, std)
    log_prob = discretized_gaussian_log_prob(LEVELS[1:-1], jnp.full(254, 0.2), std**2)
    np.testing.assert_allclose(log_prob, density + np.log(2 / 255), atol=2e-4)


@pytest.mark.parametrize("variance", [1e-6, 0.02, 10.0])
def test_gradients_are_finite(variance):
    def total(mean, variance):
        return discretized_gaussian_log_prob(LEVELS, mean, variance).sum()

    for gradient in jax.grad(total, (0, 1))(jnp.full(256, 0.2), variance):
        assert np.isfinite(gradient).all()


def test_gaussian_log_prob_agrees_with_scipy():
    x, mean = np.random.default_rng(0).normal(size=(2, 5, 3, 2)).astype(np.float32)
    variance = np.linspace(0.1, 2, 6, dtype=np.float32).reshape(3, 2)
    expected = stats.norm.logpdf(x, mean, np.sqrt(variance)).sum((1, 2))
    np.testing.assert_allclose(gaussian_log_prob(x, mean, variance), expected, rtol=1e-5)


def test_the_marginal_is_the_mean_of_the_classes_probabilities():
    nats = np.random.default_rng(0).uniform(800, 1200, (5, 4)).astype(np.float32)  # exp(-nats) underflows
    found = jax.jit(lambda: marginal_over_classes(lambda labels: jnp.asarray(nats)[labels, jnp.arange(4)], 4, 5))()
    np.testing.assert_allclose(found, np.log(5) - logsumexp(-nats.astype(np.float64), axis=0), rtol=1e-6)
    alike = marginal_over_classes(lambda labels: jnp.full(4, 7.0), 4, 5)
    np.testing.assert_allclose(alike, 7, rtol=1e-6)
