from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import plans, samplers
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.langevin import annealed_langevin, consistent_epsilon, variance_ratio
from gm_jax.diffusion.paths import geometric_path
from tests.diffusion.gaussian import MEAN, STD, denoiser, probability_flow
from tests.x64 import x64

PATH = geometric_path(0.02, 2.0, 10)
FINE = geometric_path(0.002, 20.0, 1000)
SIGMAS = np.geomspace(0.02, 2.0, 10)


# --- other samplers on this path ----------------------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("sampler", "steps"))
def flow_error(sampler, steps):
    """Largest distance from the exact end of the probability flow."""
    x = 20.0 * jnp.array([[-1.2], [0.7], [1.9]])
    exact = probability_flow(FINE, x, jnp.asarray(FINE.t_max), jnp.asarray(0.0))
    keys, times = jax.random.split(jax.random.key(0), 3), time_grid(FINE, steps, "karras")
    return jnp.abs(samplers.simulate(keys, sampler(FINE, denoiser(FINE)), x, times) - exact).max()


@pytest.mark.parametrize(
    ("sampler", "order", "bound"), [(samplers.ddim, 1, 0.05), (samplers.euler, 1, 0.2), (samplers.heun, 2, 0.01)]
)
def test_solvers_keep_their_order_on_the_geometric_path(sampler, order, bound):
    with x64(True):
        coarse, fine = (float(flow_error(sampler, n)) for n in (40, 80))
    assert order - 0.2 < np.log2(coarse / fine) < order + 0.25
    assert fine < bound


@pytest.mark.parametrize(
    ("name", "options"), [("ancestral", {"variance": "fixed_small"}), ("ddim", {"eta": 1.0}), ("heun", {})]
)
def test_the_samplers_of_other_models_draw_the_data_on_the_nodes(name, options):
    sampler = plans.SAMPLERS[name](FINE, denoiser(FINE), **options)
    keys, times = jax.random.split(jax.random.key(1), 20_000), time_grid(FINE, 200, "nodes")
    run = jax.jit(lambda keys: samplers.simulate(keys, sampler, samplers.initial_noise(FINE, keys, (1,)), times))
    draws = run(keys)
    assert abs(draws.mean() - MEAN) < 4 * STD / len(keys) ** 0.5 + 0.01
    assert abs(draws.std() / STD - 1) < 0.05


# --- annealed Langevin dynamics -----------------------------------------------------------------------------------------------


def langevin_draws(share, n=20_000, path=PATH, times=None, **options):
    """Draws of Gaussian data by annealed Langevin; `share` is epsilon / sigma_min^2."""
    epsilon = share * float(path.sigma(path.t_min)) ** 2
    sampler = annealed_langevin(path, denoiser(path), epsilon, **options)
    keys, x_keys = jax.random.split(jax.random.key(0), (2, n))
    times = time_grid(path, int(path.t_max), "nodes") if times is None else times
    run = jax.jit(lambda x: samplers.simulate(keys, sampler, x, times))
    return np.asarray(run(samplers.initial_noise(path, x_keys, (1,))), np.float64)


def assert_variance(draws, expected):
    assert abs(draws.var() / expected - 1) < 4 * (2 / len(draws)) ** 0.5


def variance_after(share, inner_steps, variance, sigmas=SIGMAS):
    """Exact variance through all levels: x - m <- (1 - alpha / v) (x - m) + sqrt(2 alpha) z with v = STD^2 + sigma^2."""
    for sigma in sigmas[::-1]:
        v, alpha = STD**2 + sigma**2, share * sigma**2
        for _ in range(inner_steps):
            variance = (1 - alpha / v) ** 2 * variance + 2 * alpha
    return variance


@pytest.mark.parametrize("share", [0.2, 1.5])
def test_a_fixed_level_has_the_variance_of_the_discretized_dynamics(share):
    """The AR(1) process above is stationary at v / (1 - alpha / 2v): above that of the level by what the step size costs."""
    level = jnp.array([7.0, 6.0])
    sigma = float(PATH.sigma(level[0]))
    v, alpha = STD**2 + sigma**2, share * sigma**2
    draws = langevin_draws(share, times=level, inner_steps=200)
    assert_variance(draws, v / (1 - alpha / (2 * v)))
    assert abs(draws.mean() - MEAN) < 4 * draws.std() / len(draws) ** 0.5


@pytest.mark.parametrize("inner_steps", [1, 5, 30])
def test_annealed_langevin_follows_the_exact_recursion(inner_steps):
    draws = langevin_draws(0.3, start="noise", inner_steps=inner_steps)
    assert_variance(draws, variance_after(0.3, inner_steps, 2.0**2))


def test_annealed_langevin_approaches_the_data_with_more_inner_steps():
    errors = [abs(variance_after(0.2, k, 2.0**2) / STD**2 - 1) for k in (2, 10, 50)]
    assert errors[1] < errors[0] / 2 and errors[2] < errors[1] / 2
    draws = langevin_draws(0.2, inner_steps=50)
    assert_variance(draws, variance_after(0.2, 50, 2.0**2))
    assert abs(draws.mean() - MEAN) < 4 * draws.std() / len(draws) ** 0.5 + 0.01


def test_the_papers_step_is_this_one_under_twice_the_epsilon():
    """Algorithm 1: x + alpha_i / 2 s + sqrt(alpha_i) z."""
    epsilon, t, keys = 8e-5, jnp.float32(4), jax.random.split(jax.random.key(0), 5)
    x = jnp.linspace(-1, 1, 5)[:, None]
    step = annealed_langevin(PATH, denoiser(PATH), epsilon, inner_steps=1).step(keys, x, (), t, t - 1)[0]
    papers_alpha = 2 * epsilon * (SIGMAS[3] / SIGMAS[0]) ** 2
    score = -(x - MEAN) / (STD**2 + SIGMAS[3] ** 2)
    z = samplers.normal(jax.vmap(jax.random.fold_in, (0, None))(keys, 0), (1,))
    np.testing.assert_allclose(step, x + papers_alpha / 2 * score + papers_alpha**0.5 * z, rtol=1e-4, atol=1e-5)


def test_the_last_denoising_is_the_denoiser_at_the_smallest_level():
    x, keys = jnp.array([[0.5], [-1.0]]), jax.random.split(jax.random.key(0), 2)

    def step(denoise, t):
        sampler = annealed_langevin(PATH, denoiser(PATH), 8e-5, inner_steps=3, denoise=denoise)
        return sampler.step(keys, x, (), jnp.float32(t), jnp.float32(t - 1))[0]

    np.testing.assert_array_equal(step(True, 1), denoiser(PATH)(step(False, 1), jnp.float32(1)))
    np.testing.assert_array_equal(step(True, 2), step(False, 2))


def test_starts_are_noise_and_uniform_pixels():
    z = jax.random.normal(jax.random.key(0), (50_000,))
    times = time_grid(PATH, 10, "nodes")
    samplers_ = [annealed_langevin(PATH, denoiser(PATH), 8e-5, start=start) for start in ("noise", "uniform")]
    noise, uniform = (sampler.start(PATH.sigma(10.0) * z, times)[0] for sampler in samplers_)
    np.testing.assert_allclose(noise, 2 * z, rtol=1e-5)
    quantiles = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(np.quantile(uniform, quantiles), 2 * quantiles - 1, atol=0.02)
    assert jnp.abs(uniform).max() <= 1


def test_draws_depend_on_their_own_key_alone_and_frames_are_one_a_level():
    sampler, times = annealed_langevin(PATH, denoiser(PATH), 8e-5, inner_steps=4), time_grid(PATH, 10, "nodes")

    @partial(jax.jit, static_argnames="frames")
    def run(keys, frames=None):
        return samplers.simulate(keys, sampler, samplers.initial_noise(PATH, keys, (3, 1)), times, frames)

    keys = jax.random.split(jax.random.key(5), 6)
    together, album = run(keys), run(keys, frames=30)
    np.testing.assert_allclose(together[::-1], run(keys[::-1]), atol=1e-6)
    np.testing.assert_allclose(together[:1], run(keys[:1]), atol=1e-6)
    assert len(np.unique(np.asarray(together))) == together.size
    assert album.shape == (10, 6, 3, 1)
    np.testing.assert_array_equal(album[-1], together)


@pytest.mark.parametrize(("denoise", "nfe"), [(False, 18), (True, 19)])
def test_nfe_counts_the_calls_of_the_denoiser(denoise, nfe):
    calls = []

    def counting(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return denoiser(PATH)(x, t)

    sampler = annealed_langevin(PATH, counting, 8e-5, inner_steps=3, denoise=denoise)
    samplers.simulate(jax.random.split(jax.random.key(0), 1), sampler, jnp.ones((1, 1)), time_grid(PATH, 6, "nodes"))
    jax.effects_barrier()
    assert len(calls) == sampler.nfe(6) == nfe


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"epsilon": 0.0}, "between 0 and"),
        ({"epsilon": 8.1e-4}, "between 0 and 2 sigma_min"),
        ({"epsilon": 8e-5, "inner_steps": 0}, "inner_steps"),
        ({"epsilon": 8e-5, "start": "zeros"}, "known: noise, uniform"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        annealed_langevin(PATH, denoiser(PATH), **options)


# --- the choice of epsilon ----------------------------------------------------------------------------------------------------


def test_variance_ratio_is_that_of_a_chain_on_data_without_variance():
    ratio, steps, share = 1.6, 4, 0.3
    variance = ratio**2
    for _ in range(steps):
        variance = (1 - share) ** 2 * variance + 2 * share
    np.testing.assert_allclose(variance_ratio(share, ratio, steps), variance)


def test_consistent_epsilon_is_that_of_ncsnv2_on_cifar10():
    ratio = 5000 ** (1 / 231)  # sigmas from 50 to 0.01 in 232 levels, pixels in [0, 1]
    assert abs(consistent_epsilon(0.01, ratio, 5) / 6.2e-6 - 1) < 0.01
    assert abs(consistent_epsilon(0.02, ratio, 5) / (4 * 6.2e-6) - 1) < 0.01  # and in [-1, 1]


def test_consistent_epsilon_cannot_be_improved():
    epsilon = consistent_epsilon(1.0, 1.5, 3)
    error = [abs(variance_ratio(f * epsilon, 1.5, 3) - 1) for f in (0.97, 1.0, 1.03)]
    assert error[1] <= min(error)
