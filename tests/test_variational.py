"""The densities, divergences and bounds of Gaussian latents, against Monte Carlo and against a model that is solved exactly."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gm_jax.core import Batch, DiagonalGaussian, Objective, Variables, streams
from gm_jax.densities import discretized_gaussian_log_prob, gaussian_log_prob
from gm_jax.errors import InputError
from gm_jax.variational import (
    Pair,
    bernoulli_observation,
    bounds,
    committed_rate,
    correlation_for,
    elbo,
    gaussian_kl,
    gaussian_observation,
    gaussian_posterior,
    iwae,
    latent_model,
    reparameterize,
    sequence_prior,
    standard_normal,
    standard_prior,
)


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


# --- models of networks -------------------------------------------------------------------------------------------------------
# p(x|z, y) = N(z + y - 1, VARIANCE) in one dimension, labels y = 0, 1, 2, and a posterior that is not quite the true one.

VARIANCE, CLASSES = 0.3, 3


def shift(labels):
    return 0.0 if labels is None else labels[:, None] - 1.0


def decode(params, z, labels=None):
    return params["gain"] * (z + shift(labels))


def posterior(params, x, labels=None):
    mean = 0.6 * (x / params["gain"] - shift(labels))
    return DiagonalGaussian(mean, jnp.full_like(mean, -1.0))


def net():
    return Pair(lambda key, batch: VARIABLES.params, lambda params, x, labels=None: x - shift(labels), decode)


GAUSSIAN = gaussian_observation(lambda state: state["variance"])
VARIABLES = Variables({"gain": jnp.float32(1.0)}, {"variance": jnp.float32(VARIANCE)})
POINTS = jnp.array([[-1.5], [0.2], [2.0]])


def repeated(fn, labels, n=4000, **options):
    """n independent values for every point: [n, points]."""
    keys, x = jax.random.split(jax.random.key(0), n * len(POINTS)), jnp.tile(POINTS, (n, 1))
    labels = None if labels is None else jnp.tile(labels, n)
    return np.asarray(jax.jit(lambda: fn(VARIABLES, keys, x, labels, **options))(), np.float64).reshape(n, -1)


@pytest.mark.parametrize(("classes", "labels"), [(None, None), (CLASSES, jnp.array([2, 0, 1])), (CLASSES, None)])
def test_bounds_of_points_close_in_on_the_exact_density(classes, labels):
    """Of p(x), of p(x|y), and of the mean over the classes where a conditional model is given no labels."""
    of_elbo, of_iwae = bounds(net(), posterior, GAUSSIAN, standard_prior(1), classes)
    assert [(bound.name, bound.kind) for bound in (of_elbo, of_iwae)] == [("elbo", "bound"), ("iwae", "bound")]
    means = [0.0] if classes is None else np.arange(3) - 1.0 if labels is None else shift(labels)[:, 0]
    density = stats.norm.pdf(POINTS, np.asarray(means), math.sqrt(1 + VARIANCE))  # [points, means]
    exact = -np.log(np.diag(density) if labels is not None else density.mean(1))
    one, many = repeated(of_elbo.fn, labels), repeated(of_iwae.fn, labels, samples=64)
    error = one.std(0) / math.sqrt(len(one))
    assert np.all(one.mean(0) > exact + 4 * error)
    np.testing.assert_allclose(many.mean(0), exact, atol=0.02)
    assert np.all(many.mean(0) > exact - 4 * many.std(0) / math.sqrt(len(many)))


def test_bounds_of_images_charge_every_level_for_its_bin():
    images = np.array([[[[3]]], [[[140]]]], np.uint8)  # one pixel
    flat = lambda x: x.reshape(len(x), 1)  # noqa: E731
    known = lambda params, x, labels=None: DiagonalGaussian(flat(x), jnp.full((len(x), 1), -30.0))  # noqa: E731 (certain)
    images_of = Pair(None, None, lambda params, z, labels=None: z.reshape(-1, 1, 1, 1))
    (of_elbo, _) = bounds(images_of, known, gaussian_observation(lambda state: 0.01), standard_prior(1))
    nats = of_elbo.fn(VARIABLES, jax.random.split(jax.random.key(0), 2), images)
    x = images / np.float32(127.5) - 1
    expected = gaussian_kl(flat(x), jnp.full((2, 1), -30.0))[:, 0] - flat(discretized_gaussian_log_prob(images, x, 0.01))[:, 0]
    np.testing.assert_allclose(nats, expected, rtol=1e-4)


def test_the_posterior_is_read_off_the_two_halves_of_the_features():
    q = gaussian_posterior(lambda params, x, labels: params * x + labels)(2.0, jnp.arange(8.0).reshape(2, 4), 1.0)
    np.testing.assert_array_equal(q.mean, [[1, 3], [9, 11]])
    np.testing.assert_array_equal(q.logvar, [[5, 7], [13, 15]])


def model(image_shape=(1,), classes=None, of_posterior=posterior):
    return latent_model(net(), Objective("none", None), image_shape, 1, posterior=of_posterior, num_classes=classes)


def test_encode_draws_from_the_posterior_or_is_certain_where_there_is_none():
    keys, x = jax.random.split(jax.random.key(0), 20_000), jnp.full((20_000, 1), 0.5)
    z = np.asarray(model().encode(VARIABLES, keys, x))
    assert abs(z.mean() - 0.3) < 4 * z.std() / math.sqrt(len(z)) and abs(z.var() / math.exp(-1) - 1) < 0.05
    np.testing.assert_array_equal(model(of_posterior=None).encode(VARIABLES, keys[:2], x[:2]), x[:2])
    assert model(of_posterior=None).posterior is None


def test_samples_are_decoded_draws_of_the_prior_clipped_where_they_are_images():
    keys = jax.random.split(jax.random.key(0), 2000)
    z = standard_normal(*streams(keys, "latent"), 1)
    np.testing.assert_allclose(model().sample(VARIABLES, keys), z, rtol=1e-6)
    of_images = model((1, 1, 1))
    np.testing.assert_allclose(of_images.sample(VARIABLES, keys), np.clip(z, -1, 1), rtol=1e-6)
    assert of_images.init(None, Batch(None, None, None)).params is VARIABLES.params


def test_a_conditional_model_draws_the_labels_it_is_not_given_but_encodes_and_decodes_for_a_class():
    conditional, keys = model(classes=CLASSES), jax.random.split(jax.random.key(0), 3000)
    z = standard_normal(*streams(keys, "latent"), 1)
    drawn = np.asarray(conditional.sample(VARIABLES, keys) - z)[:, 0]
    assert stats.chisquare([np.sum(np.abs(drawn - shifted) < 1e-5) for shifted in (-1, 0, 1)]).pvalue > 1e-3
    np.testing.assert_allclose(conditional.sample(VARIABLES, keys, jnp.full(3000, 2)), z + 1, atol=1e-5)
    for call in (
        lambda: conditional.encode(VARIABLES, keys[:3], POINTS),
        lambda: conditional.decode(VARIABLES, keys[:3], POINTS),
        lambda: conditional.posterior(VARIABLES, POINTS),
    ):
        with pytest.raises(InputError, match="give labels"):
            call()


# --- delta-VAE ----------------------------------------------------------------------------------------------------------------


def exact_sequence(latent_dim, correlation):
    """The covariance of the stationary process: correlation^|i - j|."""
    return correlation ** np.abs(np.subtract.outer(np.arange(latent_dim), np.arange(latent_dim)))


def test_the_prior_of_a_sequence_is_the_stationary_process_and_its_kl_is_that_of_gaussians():
    prior, covariance = sequence_prior(5, 0.8), exact_sequence(5, 0.8)
    z = np.asarray(jax.jit(prior.draw)(jax.random.split(jax.random.key(0), 50_000)), np.float64)
    np.testing.assert_allclose(np.cov(z.T), covariance, atol=0.03)
    density = stats.multivariate_normal(np.zeros(5), covariance)
    np.testing.assert_allclose(prior.log_prob(jnp.asarray(z[:7])), density.logpdf(z[:7]), rtol=1e-5)
    mean, logvar = np.linspace(-1, 1.5, 5), np.array([0.3, -2.0, -1.0, 0.0, -4.0])
    precision = np.linalg.inv(covariance)
    trace = np.trace(precision @ np.diag(np.exp(logvar)))
    kl = 0.5 * (trace + mean @ precision @ mean - 5 + np.linalg.slogdet(covariance)[1] - logvar.sum())
    np.testing.assert_allclose(prior.kl(mean[None], logvar[None]).sum(), kl, rtol=1e-5)
    np.testing.assert_allclose(sequence_prior(5, 0.0).kl(mean[None], logvar[None])[0], gaussian_kl(mean, logvar), rtol=1e-6)


@pytest.mark.parametrize(("size", "rate"), [(2, 0.3), (6, 2.0), (50, 5.0)])
def test_no_independent_posterior_costs_less_than_the_committed_rate(size, rate):
    correlation = correlation_for(size, rate)
    np.testing.assert_allclose(committed_rate(size, correlation), rate, rtol=1e-9)
    prior = sequence_prior(size, correlation)
    best = -np.log(np.diag(np.linalg.inv(exact_sequence(size, correlation))))  # the variances at the least KL
    cost = lambda logvar: prior.kl(jnp.zeros((1, size)), logvar[None]).sum()  # noqa: E731
    np.testing.assert_allclose(cost(jnp.asarray(best)), rate, rtol=1e-4)
    np.testing.assert_allclose(jax.grad(cost)(jnp.asarray(best)), 0, atol=1e-4)
    assert cost(jnp.asarray(best) + 0.2) > rate < cost(jnp.asarray(best) - 0.2)


def test_a_rate_that_cannot_be_committed_is_refused():
    with pytest.raises(InputError, match="at least 2 numbers"):
        correlation_for(1, 0.5)
    with pytest.raises(InputError, match="too much for latent_dim=3"):
        correlation_for(3, 50.0)


# --- black and white images ---------------------------------------------------------------------------------------------------


def test_a_bernoulli_decoder_gives_each_black_and_white_image_its_probability():
    observation, answer = bernoulli_observation(), jnp.array([[[[-1.2]], [[0.4]]]])  # one image of two pixels
    images = np.array([[[[a]], [[b]]] for a in (0, 255) for b in (0, 255)], np.uint8)
    log_probs = observation.log_prob({}, images, jnp.tile(answer, (4, 1, 1, 1)))
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1, rtol=1e-6)
    white = 1 / (1 + np.exp([1.2, -0.4]))
    np.testing.assert_allclose(log_probs[1], np.log(1 - white[0]) + np.log(white[1]), rtol=1e-6)
    np.testing.assert_allclose(observation.log_prob({}, images / np.float32(127.5) - 1, answer), log_probs, rtol=1e-6)
    np.testing.assert_allclose(observation.mean(answer).ravel(), 2 * white - 1, rtol=1e-5)


def test_of_a_grey_image_it_gives_the_mean_over_its_binarizations():
    observation, answer, grey = bernoulli_observation(), jnp.array([[[[0.7]]]]), np.array([[[[51]]]], np.uint8)
    black, white = (observation.log_prob({}, np.full_like(grey, level), answer) for level in (0, 255))
    np.testing.assert_allclose(observation.log_prob({}, grey, answer), 0.8 * black + 0.2 * white, rtol=1e-6)
