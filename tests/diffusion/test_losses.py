"""The one loss of denoisers, and how the times are drawn that it is asked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gm_jax.diffusion import losses
from gm_jax.diffusion.losses import denoising_loss
from gm_jax.diffusion.paths import add_noise, coefficients, log_snr
from gm_jax.diffusion.predictions import PREDICTIONS, preconditioned, target
from tests.diffusion.gaussian import MEAN, PATHS, STD, denoiser

PATH = PATHS["cosine"]
TIMES = np.array([2.0, 100.0, 500.0, 990.0], np.float32)


@pytest.fixture(scope="module")
def x0_and_eps():
    return np.float32(np.random.default_rng(0).normal(size=(2, 4, 3, 2, 1)))


@pytest.mark.parametrize("prediction", [*PREDICTIONS, preconditioned(0.5)])
def test_a_perfect_answer_costs_nothing_and_silence_the_power_of_the_target(prediction, x0_and_eps):
    x0, eps = x0_and_eps
    truth = target(PATH, prediction, x0, eps, TIMES)
    np.testing.assert_array_equal(denoising_loss(PATH, prediction, lambda x_t, t: truth, x0, TIMES, eps), np.zeros(4))
    silent = denoising_loss(PATH, prediction, lambda x_t, t: 0 * x_t, x0, TIMES, eps)
    np.testing.assert_allclose(silent, np.mean(truth**2, (1, 2, 3)), rtol=1e-5)


def test_the_network_is_asked_about_x_t_at_t(x0_and_eps):
    x0, eps = x0_and_eps
    asked = []
    denoising_loss(PATH, "eps", lambda x_t, t: asked.append((x_t, t)) or x_t, x0, TIMES, eps)
    np.testing.assert_array_equal(asked[0][0], add_noise(PATH, x0, eps, TIMES))
    np.testing.assert_array_equal(asked[0][1], TIMES)


@pytest.mark.parametrize("t", [TIMES, TIMES[1]])
def test_the_weight_multiplies_the_loss_of_each_example(t, x0_and_eps):
    x0, eps = x0_and_eps
    loss = lambda weight: denoising_loss(PATH, "v", lambda x_t, t: jnp.sin(x_t), x0, t, eps, weight)  # noqa: E731
    expected = loss(None) * (2 + PATH.sigma(t) ** 2 / PATH.alpha(t))
    np.testing.assert_allclose(loss(lambda c: 2 + c.sigma**2 / c.alpha), expected, rtol=1e-5)


def test_the_mean_of_the_data_given_x_t_is_the_cheapest_answer():
    """It costs the variance of x0 given x_t, STD^2 sigma^2 / (alpha^2 STD^2 + sigma^2); one next to it costs more."""
    n, t = 100_000, jnp.float32(300)
    x0, eps = np.float32(np.random.default_rng(0).normal(size=(2, n, 1)))
    x0 = MEAN + STD * x0
    costs = {
        scale: denoising_loss(PATH, "x0", lambda x_t, t, scale=scale: scale * denoiser(PATH)(x_t, t), x0, t, eps)
        for scale in (0.8, 1.0, 1.2)
    }
    alpha, sigma = float(PATH.alpha(t)), float(PATH.sigma(t))
    expected = STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)
    assert abs(costs[1.0].mean() - expected) < 4 * costs[1.0].std() / n**0.5
    assert costs[1.0].mean() < min(costs[0.8].mean(), costs[1.2].mean())


# --- times --------------------------------------------------------------------------------------------------------------------


def draws(draw_time, n=20_000):
    times = jax.jit(jax.vmap(draw_time))(jax.random.split(jax.random.key(0), n))
    assert times.shape == (n,) and times.dtype == jnp.float32
    return np.asarray(times, np.float64)


def assert_normal(values, mean, std):
    assert stats.kstest((values - mean) / std, "norm").pvalue > 1e-3


def test_nodes_are_the_whole_times_all_equally_often():
    path = PATH._replace(t_max=12.0)
    times = draws(losses.nodes(path))
    values, counts = np.unique(times, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(1, 13))
    assert stats.chisquare(counts).pvalue > 1e-3


def test_uniform_times_fill_the_path():
    path = PATHS["flow"]._replace(t_min=0.2)
    times = draws(losses.uniform(path))
    assert times.min() >= 0.2 and times.max() <= 1
    assert stats.kstest((times - 0.2) / 0.8, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", ["flow", "edm", "linear"])
def test_log_normal_times_have_a_normal_log_of_noise_over_data(name):
    path, mean, std = PATHS[name], -1.0, 0.9  # 3 std from either end of each path
    times = draws(losses.log_normal(path, mean, std))
    assert path.t_min <= times.min() and times.max() <= path.t_max
    assert_normal(-np.asarray(log_snr(path, times), np.float64) / 2, mean, std)


def test_log_normal_times_beyond_the_path_are_its_ends():
    path = PATHS["edm"]
    times = draws(losses.log_normal(path, 0.0, 20.0), 1000)
    assert set(np.unique(times)[[0, -1]]) == {np.float32(path.t_min), np.float32(path.t_max)}


@pytest.mark.parametrize("name", ["flow", "edm"])
def test_logit_normal_times_have_a_normal_logit(name):
    times = draws(losses.logit_normal(PATHS[name], mean=0.5, std=1.2)) / PATHS[name].t_max
    assert_normal(np.log(times / (1 - times)), 0.5, 1.2)


@pytest.mark.parametrize(
    ("make", "of_x0"), [(losses.min_snr, lambda snr: min(snr, 5)), (losses.p2, lambda snr: snr / (1 + snr))]
)
def test_weights_are_those_of_x0_whatever_is_predicted(make, of_x0):
    """The same denoiser costs the same, said as eps, x0 or v."""
    path, x0 = PATHS["cosine"], jnp.full((1, 4), 0.4)
    eps, estimate = jax.random.normal(jax.random.key(0), (1, 4)), jnp.full((1, 4), -0.1)
    for t in (20.0, 500.0, 950.0):
        x_t, c = add_noise(path, x0, eps, t), coefficients(path, jnp.asarray(t), x0)
        answers = {
            "x0": estimate,
            "eps": (x_t - c.alpha * estimate) / c.sigma,
            "v": (c.alpha * x_t - (c.alpha**2 + c.sigma**2) * estimate) / c.sigma,
        }
        expected = of_x0(float((c.alpha / c.sigma) ** 2)) * 0.25
        for prediction, answer in answers.items():
            loss = losses.denoising_loss(path, prediction, lambda *_, a=answer: a, x0, t, eps, make(prediction))
            np.testing.assert_allclose(loss, expected, rtol=2e-3)
