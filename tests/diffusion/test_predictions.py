import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import paths
from gm_jax.diffusion.losses import denoising_loss
from gm_jax.diffusion.predictions import PREDICTIONS, named, preconditioned, target, to_eps, to_x0, velocity
from tests.diffusion.gaussian import PATHS, denoiser, probability_flow
from tests.x64 import x64

ALL = {**PREDICTIONS, "preconditioned": preconditioned(0.5), "preconditioned, unit data": preconditioned(1.0)}
GEOMETRIC = {"geometric": paths.geometric_path(0.02, 2.0, 10)}


@pytest.fixture(scope="module")
def x0_and_eps():
    """In float64."""
    return np.random.default_rng(0).normal(size=(2, 5, 2, 2, 1))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("name", [*PATHS, *GEOMETRIC])
def test_the_right_answer_gives_back_x0_and_eps(name, kind, x0_and_eps):
    path, prediction, (x0, eps) = {**PATHS, **GEOMETRIC}[name], ALL[kind], x0_and_eps
    t = path.t_max * np.array([0.05, 0.3, 0.5, 0.7, 0.8])

    @jax.jit
    def there_and_back(x0, eps, t):
        x_t = paths.add_noise(path, x0, eps, t)
        x0_hat = to_x0(path, prediction, target(path, prediction, x0, eps, t), x_t, t)
        return x0_hat, to_eps(path, x0_hat, x_t, t)

    with x64(True):
        x0_hat, eps_hat = there_and_back(x0, eps, t)
        assert x0_hat.dtype == jnp.float64
        np.testing.assert_allclose(x0_hat, x0, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(eps_hat, eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ALL)
def test_x0_is_affine_in_the_answer(kind):
    """With coefficients of t alone: so that interpolated answers are interpolated images."""
    path, t = PATHS["cosine"], 400.0
    answer = lambda p: to_x0(path, ALL[kind], jnp.array([p]), jnp.array([0.7]), t)[0]  # noqa: E731
    np.testing.assert_allclose(answer(0.25), 0.75 * answer(0.0) + 0.25 * answer(1.0), rtol=1e-5)
    assert abs(answer(1.0) - answer(0.0)) > 1e-3


def test_an_unknown_prediction_is_refused_and_a_given_one_taken_as_it_is():
    with pytest.raises(ValueError, match="'noise'; choose x0, eps, scaled_score, v, score, velocity"):
        to_x0(PATHS["flow"], "noise", jnp.ones(1), jnp.ones(1), 0.5)
    own = preconditioned(0.3)
    assert named(own) is own and named("v") is PREDICTIONS["v"]


# --- what the papers say of them ----------------------------------------------------------------------------------------------


def test_the_score_is_the_gradient_of_the_conditional_log_density():
    path, t, x0, eps = PATHS["linear"], 300.0, jnp.array([0.4]), jnp.array([-1.3])

    def log_density(x_t):
        return jnp.sum(-((x_t - path.alpha(t) * x0) ** 2) / (2 * path.sigma(t) ** 2))

    score = jax.grad(log_density)(paths.add_noise(path, x0, eps, t))
    np.testing.assert_allclose(target(path, "score", x0, eps, t), score, rtol=1e-4)
    np.testing.assert_allclose(target(path, "scaled_score", x0, eps, t), path.sigma(t) * score, rtol=1e-4)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_is_the_slope_of_the_exact_probability_flow(name):
    path = PATHS[name]
    with x64(True):
        t, x = jnp.asarray(0.4003 * path.t_max), jnp.array([-1.0, 0.2, 2.0])
        h = 1e-5 * path.t_max
        slope = (probability_flow(path, x, t, t + h) - probability_flow(path, x, t, t - h)) / (2 * h)
        np.testing.assert_allclose(velocity(path, denoiser(path)(x, t), x, t), slope, rtol=2e-3)


def test_on_the_straight_path_the_velocity_is_noise_minus_data(x0_and_eps):
    """Lipman et al. 2022, eq. 23; Liu et al. 2022, eq. 1."""
    x0, eps = np.float32(x0_and_eps)
    np.testing.assert_allclose(target(PATHS["flow"], "velocity", x0, eps, 0.3), eps - x0, rtol=1e-6)


# --- Karras et al. 2022 -------------------------------------------------------------------------------------------------------


def test_the_preconditioner_has_the_coefficients_of_the_papers_table_1():
    sigma_data, sigma = 0.5, np.array([0.003, 0.4, 1.7, 60.0])
    ones = np.ones(4)
    c = paths.Coefficients(ones, sigma, 0 * ones, ones)
    edm = preconditioned(sigma_data)
    with x64(True):
        np.testing.assert_allclose(edm.scale(c), 1 / np.sqrt(sigma**2 + sigma_data**2), rtol=1e-12)
        np.testing.assert_allclose(edm.x0(0 * ones, ones, c), sigma_data**2 / (sigma**2 + sigma_data**2), rtol=1e-12)
        c_out = sigma * sigma_data / np.sqrt(sigma**2 + sigma_data**2)
        np.testing.assert_allclose(edm.x0(ones, 0 * ones, c), c_out, rtol=1e-12)


def test_inputs_and_targets_of_the_preconditioner_have_unit_variance():
    n, sigma_data = 100_000, 0.5
    x0, eps = np.random.default_rng(0).normal(size=(2, n))
    for sigma in (0.05, 0.5, 5.0):
        path, edm = PATHS["edm"], preconditioned(sigma_data)
        x_t = paths.add_noise(path, sigma_data * x0, eps, sigma)
        seen = edm.scale(paths.coefficients(path, sigma, x_t)) * x_t
        for values in (seen, target(path, edm, sigma_data * x0, eps, sigma)):
            assert abs(np.var(values) - 1) < 4 * (2 / n) ** 0.5


def test_edms_weighted_loss_of_x0_is_the_plain_loss_of_the_preconditioned_answer(x0_and_eps):
    """Eq. 8: lambda(sigma) |D - x0|^2 with lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 = 1 / c_out^2."""
    sigma_data, path, sigma = 0.5, PATHS["edm"], np.array([0.01, 0.3, 1.0, 7.0, 70.0])
    x0, eps = x0_and_eps
    edm, answer = preconditioned(sigma_data), lambda x_t, t: jnp.sin(3 * x_t)
    with x64(True):
        plain = denoising_loss(path, edm, answer, x0, sigma, eps)
        as_x0 = lambda x_t, t: to_x0(path, edm, answer(x_t, t), x_t, t)  # noqa: E731
        weight = lambda c: (c.sigma**2 + sigma_data**2) / (c.sigma * sigma_data) ** 2  # noqa: E731
        np.testing.assert_allclose(denoising_loss(path, "x0", as_x0, x0, sigma, eps, weight), plain, rtol=1e-9)


def test_on_a_path_that_preserves_variance_the_preconditioned_answer_of_unit_data_is_minus_v(x0_and_eps):
    path, t, (x0, eps) = PATHS["linear"], np.array([1.0, 40.0, 300.0, 700.0, 1000.0]), x0_and_eps
    unit = preconditioned(1.0)
    with x64(True):
        v = target(path, "v", x0, eps, t)
        np.testing.assert_allclose(target(path, unit, x0, eps, t), -v, rtol=1e-9, atol=1e-12)
        x_t = paths.add_noise(path, x0, eps, t)
        np.testing.assert_allclose(to_x0(path, unit, -v, x_t, t), to_x0(path, "v", v, x_t, t), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(unit.scale(paths.coefficients(path, t, x_t)), 1, rtol=1e-12)
