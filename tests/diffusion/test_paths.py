import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import paths
from gm_jax.diffusion.predictions import drift_and_diffusion
from gm_jax.models.ddpm import get_beta_schedule
from tests.diffusion.gaussian import PATHS, marginal
from tests.x64 import x64

SDES = {"vp": paths.vp_path(), "sub_vp": paths.sub_vp_path(), "ve": paths.ve_path()}
GEOMETRIC, SIGMAS = paths.geometric_path(0.02, 2.0, 10), np.geomspace(0.02, 2.0, 10)


@pytest.fixture(scope="module")
def betas():
    return get_beta_schedule("linear", 1000)


def test_discrete_tables_equal_the_textbook_products_in_float64(betas):
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    with x64(True):
        path, t = PATHS["linear"], jnp.arange(1001.0)
        np.testing.assert_allclose(path.alpha(t) ** 2, alpha_bar, rtol=1e-12)
        np.testing.assert_allclose(path.sigma(t) ** 2, 1 - alpha_bar, rtol=1e-10)
    assert path.alpha(0.0) == 1 and path.sigma(0.0) == 0


def test_discrete_tables_interpolate_linearly():
    path = PATHS["linear"]
    for f in (path.alpha, path.sigma):
        assert f(42) == f(42.0)
        np.testing.assert_allclose(f(jnp.array(41.25)), 0.75 * f(41.0) + 0.25 * f(42.0), rtol=1e-6)


@pytest.mark.parametrize("name", PATHS | SDES)
def test_t_of_log_snr_inverts_log_snr(name):
    path = (PATHS | SDES)[name]
    with x64(True):
        t = jnp.append(jnp.linspace(path.t_min, 0.999 * path.t_max, 57), path.t_min / 3)
        log_snr = paths.log_snr(path, t)
        np.testing.assert_allclose(path.t_of_log_snr(log_snr), t, rtol=1e-9)
    assert np.all(np.diff(log_snr[:-1]) < 0)
    t = np.float32(t)
    np.testing.assert_allclose(path.t_of_log_snr(paths.log_snr(path, t)), t, rtol=2e-4, atol=2e-8)


@pytest.mark.parametrize("betas", [[0.1], [0.1, 1.0], [0.0, 0.1], [[0.1, 0.2]]])
def test_betas_that_make_no_chain_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        paths.discrete_path(np.array(betas))


def test_geometric_path_has_the_papers_sigmas_at_its_levels():
    with x64(True):
        values = jax.jit(lambda t: (GEOMETRIC.alpha(t), GEOMETRIC.sigma(t)))(np.append(np.arange(11), [2.5, 0.25]))
        alpha, sigma = map(np.asarray, values)
    np.testing.assert_allclose(sigma, [0, *SIGMAS, (SIGMAS[1] * SIGMAS[2]) ** 0.5, SIGMAS[0] / 4], rtol=1e-12)
    np.testing.assert_array_equal(alpha, 1)
    assert sigma[0] == 0 and (GEOMETRIC.t_min, GEOMETRIC.t_max) == (1, 10)


def test_geometric_path_inverts_its_log_snr():
    fine = paths.geometric_path(0.002, 20.0, 1000)
    with x64(True):
        t = np.linspace(0.3, 1000, 57)
        np.testing.assert_allclose(jax.jit(lambda t: fine.t_of_log_snr(paths.log_snr(fine, t)))(t), t, rtol=1e-9)


@pytest.mark.parametrize("settings", [(0.0, 1.0, 10), (2.0, 1.0, 10), (0.1, 1.0, 1)])
def test_levels_that_make_no_sequence_are_refused(settings):
    with pytest.raises(ValueError, match="sigma_min|noise levels"):
        paths.geometric_path(*settings)


@pytest.mark.parametrize("name", [*PATHS, "geometric"])
def test_coefficients_are_those_of_the_path_and_their_slopes(name):
    """At a time between the nodes; the slope by central differences."""
    path = GEOMETRIC if name == "geometric" else PATHS[name]
    with x64(True):
        t, h, x = jnp.array([0.3003, 0.7107]) * path.t_max, 1e-6 * path.t_max, jnp.zeros((2, 3, 3, 1))
        c = jax.jit(lambda t: paths.coefficients(path, t, x))(t)
        for f, value, slope in ((path.alpha, c.alpha, c.d_alpha), (path.sigma, c.sigma, c.d_sigma)):
            assert value.shape == slope.shape == (2, 1, 1, 1)
            np.testing.assert_allclose(value.ravel(), f(t), rtol=1e-12)
            np.testing.assert_allclose(slope.ravel(), (f(t + h) - f(t - h)) / (2 * h), rtol=1e-5, atol=1e-8)


def test_posterior_equals_the_textbook_formulas_in_float64(betas):
    """Ho et al. 2020, eq. 7 and section 3.2."""
    alpha_bar = np.concatenate([[1.0], np.cumprod(1 - betas)])
    now, before = alpha_bar[1:], alpha_bar[:-1]
    with x64(True):
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
    with x64(True):
        t, s = jnp.asarray(0.7 * path.t_max), jnp.asarray(0.2 * path.t_max)
        q = paths.posterior(path, t, s)
        np.testing.assert_allclose(q.of_x0 + q.of_x_t * path.alpha(t), path.alpha(s), rtol=1e-9)
        np.testing.assert_allclose(q.variance + (q.of_x_t * path.sigma(t)) ** 2, path.sigma(s) ** 2, rtol=1e-9)
        np.testing.assert_allclose(q.transition + (path.alpha(t) / path.alpha(s) * path.sigma(s)) ** 2, path.sigma(t) ** 2)
        clean = paths.posterior(path, t, jnp.asarray(0.0))
        assert (clean.of_x0, clean.of_x_t, clean.variance) == (1, 0, 0)


def test_add_noise_has_the_moments_of_the_path():
    path, t, n = PATHS["linear"], 250.0, 200_000
    eps = jax.random.normal(jax.random.key(0), (n,))
    x_t = paths.add_noise(path, jnp.full((n,), 0.6), eps, jnp.full((n,), t))
    mean, std = marginal(path, t, mean=0.6, std=0.0)
    assert abs(x_t.mean() - mean) < 4 * std / n**0.5
    assert abs(x_t.var() / std**2 - 1) < 4 * (2 / n) ** 0.5


def test_continuous_paths_are_those_of_the_paper_and_obey_its_sdes():
    """Song et al. 2021, eq. 29-34; the SDE's drift and diffusion are those of beta(t) and of sigma(t)."""
    t, x = jnp.linspace(0.01, 1.0, 21), jnp.ones((21, 1))
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t**2 / 2
    mean = jnp.exp(-integral / 2)
    variances = {"vp": 1 - jnp.exp(-integral), "sub_vp": (1 - jnp.exp(-integral)) ** 2, "ve": 0.02**2 * 5000 ** (2 * t)}
    diffusions = {
        "vp": beta,
        "sub_vp": beta * (1 - jnp.exp(-2 * integral)),
        "ve": variances["ve"] * 2 * np.log(5000),
    }
    for name, path in SDES.items():
        np.testing.assert_allclose(path.alpha(t), 1 if name == "ve" else mean, rtol=1e-5)
        np.testing.assert_allclose(path.sigma(t) ** 2, variances[name], rtol=1e-4)
        f, g2 = drift_and_diffusion(path, t, x)
        np.testing.assert_allclose(f[:, 0], 0 if name == "ve" else -beta / 2, rtol=1e-4)
        np.testing.assert_allclose(g2[:, 0], diffusions[name], rtol=1e-3)
        assert path.alpha(0.0) == 1 and path.sigma(0.0) == 0


@pytest.mark.parametrize(
    ("make", "values"), [(paths.vp_path, (0.0, 1.0)), (paths.sub_vp_path, (2.0, 1.0)), (paths.ve_path, (1.0, 1.0))]
)
def test_settings_that_make_no_path_are_refused(make, values):
    with pytest.raises(ValueError, match="must satisfy"):
        make(*values)
