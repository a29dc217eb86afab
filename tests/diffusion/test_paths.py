import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import paths
from gm_jax.models.ddpm import get_beta_schedule
from tests.diffusion.gaussian import PATHS, denoiser, marginal, probability_flow


@pytest.fixture(scope="module")
def betas():
    return get_beta_schedule("linear", 1000)


def test_discrete_tables_equal_the_textbook_products_in_float64(betas):
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    with jax.enable_x64(True):
        path, t = PATHS["linear"], jnp.arange(1001.0)
        np.testing.assert_allclose(path.alpha(t) ** 2, alpha_bar, rtol=1e-12)
        np.testing.assert_allclose(path.sigma(t) ** 2, 1 - alpha_bar, rtol=1e-10)
    assert path.alpha(0.0) == 1 and path.sigma(0.0) == 0


def test_discrete_tables_interpolate_linearly():
    path = PATHS["linear"]
    for f in (path.alpha, path.sigma):
        assert f(42) == f(42.0)
        np.testing.assert_allclose(f(jnp.array(41.25)), 0.75 * f(41.0) + 0.25 * f(42.0), rtol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_t_of_log_snr_inverts_log_snr(name):
    path = PATHS[name]
    with jax.enable_x64(True):
        t = jnp.append(jnp.linspace(path.t_min, 0.999 * path.t_max, 57), path.t_min / 3)
        log_snr = paths.log_snr(path, t)
        np.testing.assert_allclose(path.t_of_log_snr(log_snr), t, rtol=1e-9)
    assert np.all(np.diff(log_snr[:-1]) < 0)
    t = np.float32(t)
    np.testing.assert_allclose(path.t_of_log_snr(paths.log_snr(path, t)), t, rtol=2e-4)


@pytest.mark.parametrize("betas", [[0.1], [0.1, 1.0], [0.0, 0.1], [[0.1, 0.2]]])
def test_betas_that_make_no_chain_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        paths.discrete_path(np.array(betas))


@pytest.mark.parametrize("kind", paths.KINDS)
@pytest.mark.parametrize("name", PATHS)
def test_every_kind_of_prediction_gives_back_x0_and_eps(name, kind):
    path = PATHS[name]
    x0, eps = jax.random.normal(jax.random.key(0), (2, 5, 3, 3, 1))
    t = path.t_max * jnp.array([0.05, 0.3, 0.5, 0.7, 0.8])
    with jax.enable_x64(True):
        x_t = paths.add_noise(path, x0, eps, t)
        prediction = paths.target(path, kind, x0, eps, t)
        np.testing.assert_allclose(paths.to_x0(path, kind, prediction, x_t, t), x0, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(paths.to_eps(path, x0, x_t, t), eps, rtol=1e-6, atol=1e-6)


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="known: x0, eps, v, score, velocity"):
        paths.to_x0(PATHS["flow"], "noise", jnp.ones(1), jnp.ones(1), 0.5)


def test_score_kind_is_the_gradient_of_the_conditional_log_density():
    path, t, x0, eps = PATHS["linear"], 300.0, jnp.array([0.4]), jnp.array([-1.3])

    def log_density(x_t):
        return jnp.sum(-((x_t - path.alpha(t) * x0) ** 2) / (2 * path.sigma(t) ** 2))

    score = jax.grad(log_density)(paths.add_noise(path, x0, eps, t))
    np.testing.assert_allclose(paths.target(path, "score", x0, eps, t), score, rtol=1e-4)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_is_the_slope_of_the_exact_probability_flow(name):
    path = PATHS[name]
    with jax.enable_x64(True):
        t, x = jnp.asarray(0.4003 * path.t_max), jnp.array([-1.0, 0.2, 2.0])
        h = 1e-5 * path.t_max
        slope = (probability_flow(path, x, t, t + h) - probability_flow(path, x, t, t - h)) / (2 * h)
        np.testing.assert_allclose(paths.velocity(path, denoiser(path)(x, t), x, t), slope, rtol=2e-3)


def test_posterior_equals_the_textbook_formulas_in_float64(betas):
    """Ho et al. 2020, eq. 7 and section 3.2."""
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    now, before = alpha_bar[1:], alpha_bar[:-1]
    with jax.enable_x64(True):
        t = jnp.arange(1.0, 1001.0)
        q = paths.posterior(PATHS["linear"], t, t - 1)
        np.testing.assert_allclose(q.of_x0, np.sqrt(before) * betas / (1 - now), rtol=1e-9)
        np.testing.assert_allclose(q.of_x_t, np.sqrt(1 - betas) * (1 - before) / (1 - now), rtol=1e-9)
        np.testing.assert_allclose(q.variance, (1 - before) / (1 - now) * betas, rtol=1e-9)
        np.testing.assert_allclose(q.transition, betas, rtol=1e-9)


def test_posterior_keeps_its_precision_in_float32(betas):
    t = jnp.arange(1.0, 1001.0)
    np.testing.assert_allclose(paths.posterior(PATHS["linear"], t, t - 1).transition, betas, rtol=1e-3)


@pytest.mark.parametrize("name", PATHS)
def test_posterior_carries_one_marginal_to_the_other(name):
    path = PATHS[name]
    with jax.enable_x64(True):
        t, s = jnp.asarray(0.7 * path.t_max), jnp.asarray(0.2 * path.t_max)
        q = paths.posterior(path, t, s)
        np.testing.assert_allclose(q.of_x0 + q.of_x_t * path.alpha(t), path.alpha(s), rtol=1e-9)
        np.testing.assert_allclose(q.variance + (q.of_x_t * path.sigma(t)) ** 2, path.sigma(s) ** 2, rtol=1e-9)
        np.testing.assert_allclose(q.transition + (path.alpha(t) / path.alpha(s) * path.sigma(s)) ** 2, path.sigma(t) ** 2)
        clean = paths.posterior(path, t, jnp.asarray(0.0))
        assert (clean.of_x0, clean.of_x_t, clean.variance) == (1, 0, 0)


@pytest.mark.parametrize("spacing", paths.SPACINGS)
@pytest.mark.parametrize("name", PATHS)
def test_grids_fall_from_exactly_t_max_to_exactly_0(name, spacing):
    path = PATHS[name]
    path = path._replace(t_max=0.999) if name == "flow" and spacing in ("log_snr", "karras") else path
    for n in (1, 2, 17) if (name, spacing) != ("flow", "nodes") else (1,):
        times = jax.jit(lambda n=n: paths.grid(path, n, spacing))()
        assert times.shape == (n + 1,) and times.dtype == jnp.float32
        assert times[0] == np.float32(path.t_max) and times[-1] == 0
        assert np.all(np.diff(times) < 0)


def test_grids_are_even_in_what_their_name_says():
    path = PATHS["linear"]
    log_snr = paths.log_snr(path, paths.grid(path, 20, "log_snr")[:-1])
    np.testing.assert_allclose(np.diff(log_snr), np.diff(log_snr).mean(), rtol=1e-2)
    np.testing.assert_allclose(np.diff(np.sqrt(paths.grid(path, 20, "quadratic")[:-1]), 2), 0, atol=1e-4)
    np.testing.assert_array_equal(paths.grid(path, 1000, "nodes"), np.arange(1000, -1, -1))
    np.testing.assert_array_equal(paths.grid(path, 4, "nodes"), [1000, 750, 500, 250, 0])
    np.testing.assert_array_equal(paths.grid(path, 300, "nodes") % 1, 0)


def test_karras_grid_equals_the_papers_formula():
    n, low, high = 18, 0.002, 80.0
    sigmas = (high ** (1 / 7) + np.arange(n) / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    np.testing.assert_allclose(paths.grid(paths.edm_path(low, high), n, "karras"), np.append(sigmas, 0), rtol=1e-4)


@pytest.mark.parametrize(
    "name, n, spacing, reason",
    [
        ("linear", 1001, "nodes", "1000 nodes"),
        ("linear", 10, "sqrt", "unknown spacing"),
        ("linear", 0, "uniform", "at least one"),
        ("flow", 10, "log_snr", "pure noise"),
    ],
)
def test_grids_that_cannot_be_are_refused(name, n, spacing, reason):
    with pytest.raises(ValueError, match=reason):
        paths.grid(PATHS[name], n, spacing)


def test_add_noise_has_the_moments_of_the_path():
    path, t, n = PATHS["linear"], 250.0, 200_000
    eps = jax.random.normal(jax.random.key(0), (n,))
    x_t = paths.add_noise(path, jnp.full((n,), 0.6), eps, jnp.full((n,), t))
    mean, std = marginal(path, t, mean=0.6, std=0.0)
    assert abs(x_t.mean() - mean) < 4 * std / n**0.5
    assert abs(x_t.var() / std**2 - 1) < 4 * (2 / n) ** 0.5
