"""Densities of Gaussians, probabilities of uint8 levels under them, and the mean over classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import log_ndtr, logsumexp

from gm_jax.densities import (
    LogisticMixture,
    discretized_gaussian_log_prob,
    draw_logistic_mixture,
    gaussian_log_prob,
    logistic_mixture,
    logistic_mixture_log_prob,
    marginal_over_classes,
    mixture_size,
)

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


# --- mixtures of discretized logistics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("log_scale", [-9.0, -7.0, -3.0, 0.0, 5.0])
def test_the_256_levels_of_a_logistic_mixture_sum_to_one(log_scale):
    numbers = np.float32(np.random.default_rng(0).normal(size=(6, mixture_size(1, 4))))
    numbers[:, 8:] += log_scale
    log_prob = logistic_mixture_log_prob(LEVELS[:, None, None].repeat(6, 1), logistic_mixture(numbers, 1))
    assert log_prob.shape == (256, 6) and np.isfinite(log_prob).all()
    np.testing.assert_allclose(np.exp(np.asarray(log_prob, np.float64)).sum(0), 1, atol=1e-5)


def test_a_logistic_mixture_of_colours_is_that_of_the_paper():
    rng = np.random.default_rng(1)
    numbers, images = rng.normal(size=(50, 20)), rng.integers(0, 256, (50, 3), dtype=np.uint8)
    images[:10], images[10:20] = 0, 255
    logits, rest = numbers[:, :2], numbers[:, 2:].reshape(50, 3, 3, 2)  # of each channel mean, log scale, slope
    x, (mean, log_scale, slope) = images / 127.5 - 1, np.moveaxis(rest, 2, 0)
    mean, slope = mean.copy(), np.tanh(slope)
    mean[:, 1] += slope[:, 0] * x[:, :1]
    mean[:, 2] += slope[:, 1] * x[:, :1] + slope[:, 2] * x[:, 1:2]

    def cdf(edge):
        return 1 / (1 + np.exp(-(edge[..., None] - mean) / np.exp(log_scale)))

    upper, lower = np.where(images == 255, np.inf, x + 1 / 255), np.where(images == 0, -np.inf, x - 1 / 255)
    weights = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = np.log((weights * (cdf(upper) - cdf(lower)).prod(1)).sum(1))
    found = logistic_mixture_log_prob(images, logistic_mixture(jnp.float32(numbers), 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("log_scale", [-40.0, -7.0, 0.0, 10.0])
def test_gradients_of_a_logistic_mixture_are_finite(log_scale):
    def total(numbers):
        return logistic_mixture_log_prob(LEVELS[:, None], logistic_mixture(numbers, 1)).sum()

    numbers = jnp.broadcast_to(jnp.array([0.0, 1.0, -3.0, 0.3, log_scale, log_scale]), (256, 6))
    assert np.isfinite(jax.grad(total)(numbers)).all()


def test_pixels_are_drawn_as_often_as_their_probability_says():
    n, log_scale = 40_000, np.log(0.5 / 127.5)  # half a level
    means = jnp.array([[-0.2, 0.6], [0.0, 0.1], [0.98, -0.99]])  # blue beside the border, where levels are open
    slopes = jnp.array([[0.5, -0.5], [0.1, 0.9], [-0.9, 0.2]])
    mixture = LogisticMixture(jnp.array([[0.3, -0.3]]), means[None], jnp.full((1, 3, 2), log_scale), slopes[None])

    def draw(key, temperature=1.0):
        return draw_logistic_mixture(key[None], mixture, temperature)[0]

    keys = jax.random.split(jax.random.key(0), n)
    found, counts = np.unique(jax.jit(jax.vmap(draw))(keys), axis=0, return_counts=True)
    expected = np.exp(logistic_mixture_log_prob(found, jax.tree.map(lambda a: a.repeat(len(found), 0), mixture)))
    np.testing.assert_array_less(np.abs(counts / n - expected), 5 * np.sqrt(expected / n) + 3 / n)
    assert len(found) > 50 and counts.max() > 300 and expected.sum() > 0.98
    assert len(np.unique(jax.vmap(lambda key: draw(key, 1e-3))(keys[:50]), axis=0)) == 1
