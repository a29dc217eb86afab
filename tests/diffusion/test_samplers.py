from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import plans, samplers
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.paths import posterior
from tests.diffusion.gaussian import MEAN, PATHS, STD, denoiser, probability_flow
from tests.x64 import x64

# a grid that resolves each path
SPACING = {"flow": "uniform", "edm": "karras", "linear": "quadratic", "cosine": "quadratic"}


@partial(jax.jit, static_argnames=("name", "sampler", "steps"))
def error(name, sampler, steps):
    """Largest distance from the exact end of the probability flow."""
    path = PATHS[name]
    x = path.sigma(jnp.asarray(path.t_max)) * jnp.array([[-1.2], [0.7], [1.9]])
    exact = probability_flow(path, x, jnp.asarray(path.t_max), jnp.asarray(0.0))
    keys = jax.random.split(jax.random.key(0), 3)
    end = samplers.simulate(keys, sampler(path, denoiser(path)), x, time_grid(path, steps, SPACING[name]))
    return jnp.abs(end - exact).max()


def errors(name, sampler, steps):
    with x64(True):
        return np.array([error(name, sampler, n) for n in steps])


@pytest.mark.parametrize("sampler", [samplers.ddim, samplers.euler])
@pytest.mark.parametrize("name", PATHS)
def test_first_order_solvers_halve_their_error_with_the_step(name, sampler):
    coarse, fine = errors(name, sampler, (40, 80))
    assert 0.9 < np.log2(coarse / fine) < 1.15
    assert fine < 0.05


@pytest.mark.parametrize("name", ["flow", "edm"])
def test_heun_quarters_its_error_when_the_step_halves(name):
    coarse, fine = errors(name, samplers.heun, (40, 80))
    assert 1.9 < np.log2(coarse / fine) < 2.2
    assert fine < 0.003


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_heun_beats_euler_on_discrete_paths(name):
    """Their tables are piecewise linear, which caps the order; the second evaluation must still pay for itself."""
    assert errors(name, samplers.heun, (20,)) < errors(name, samplers.euler, (40,)) / 3


@pytest.mark.parametrize("name", ["flow", "edm"])
def test_euler_is_ddim_where_both_coefficients_are_linear_in_t(name):
    path = PATHS[name]
    x = path.t_max * jnp.array([[-0.5], [1.5]])
    t, s = jnp.float32(0.6 * path.t_max), jnp.float32(0.35 * path.t_max)
    step = [f(path, denoiser(path)).step(None, x, (), t, s)[0] for f in (samplers.euler, samplers.ddim)]
    np.testing.assert_allclose(*step, rtol=1e-5)


@partial(jax.jit, static_argnames=("name", "sampler", "steps"))
def draw(keys, name, sampler, steps):
    path = PATHS[name]
    x, times = samplers.initial_noise(path, keys, (1,)), time_grid(path, steps, SPACING[name])
    return samplers.simulate(keys, sampler(path, denoiser(path)), x, times)


@pytest.mark.parametrize("name, eta", [("flow", 1.0), ("edm", 1.0), ("linear", 1.0), ("linear", 0.5)])
def test_stochastic_sampling_approaches_the_moments_of_the_data(name, eta):
    keys, sampler = jax.random.split(jax.random.key(1), 30_000), partial(samplers.ddim, eta=eta)
    coarse, fine = (draw(keys, name, sampler, steps) for steps in (16, 64))
    tolerance = 4 * (2 / len(keys)) ** 0.5
    error = [abs(samples.var() / STD**2 - 1) for samples in (coarse, fine)]
    assert error[1] < error[0] / 2.5 + tolerance
    assert error[1] < 0.15 + tolerance
    assert abs(fine.mean() - MEAN) < 4 * STD / len(keys) ** 0.5 + 0.01


def test_fixed_large_and_fixed_small_variance_bracket_the_data():
    """Reverse variances beta and beta-tilde suit data of unit variance and of none (Ho et al. 2020, section 3.2)."""
    keys = jax.random.split(jax.random.key(3), 30_000)
    ancestral = [partial(samplers.ancestral, variance=variance) for variance in ("fixed_small", "fixed_large")]
    small, large = (draw(keys, "linear", sampler, 16).var() for sampler in ancestral)
    assert small < STD**2 * 0.99 < STD**2 * 1.01 < large


def test_ddim_with_eta_1_draws_what_ancestral_with_fixed_small_draws():
    path = PATHS["linear"]
    keys = jax.random.split(jax.random.key(0), 4)
    x, times = samplers.initial_noise(path, keys, (2, 2, 1)), time_grid(path, 25, "nodes")
    a = samplers.simulate(keys, samplers.ancestral(path, denoiser(path), "fixed_small"), x, times)
    b = samplers.simulate(keys, samplers.ddim(path, denoiser(path), eta=1.0), x, times)
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ancestral_step_is_the_reverse_transition(variance):
    path, x, t, s = PATHS["linear"], jnp.full((100_000, 1), 0.8), jnp.float32(500), jnp.float32(460)
    step, keys = samplers.ancestral(path, denoiser(path), variance).step, jax.random.split(jax.random.key(0), len(x))
    draws, _ = step(keys, x, (), t, s)
    q = posterior(path, t, s)
    expected = {"fixed_small": q.variance, "fixed_large": q.transition}[variance]
    mean = q.of_x0 * denoiser(path)(x[0], t) + q.of_x_t * x[0]
    assert abs(draws.mean() - mean[0]) < 4 * (expected / len(x)) ** 0.5
    assert abs(draws.var() / expected - 1) < 4 * (2 / len(x)) ** 0.5


@pytest.mark.parametrize("sampler", [samplers.ancestral, partial(samplers.ddim, eta=1.0), samplers.heun])
def test_the_step_to_the_clean_end_is_the_denoised_image(sampler):
    path, x, t = PATHS["linear"], jnp.array([[0.5], [-1.0]]), jnp.float32(1.0)
    keys = jax.random.split(jax.random.key(0), 2)
    end, _ = sampler(path, denoiser(path)).step(keys, x, (), t, jnp.float32(0))
    np.testing.assert_allclose(end, denoiser(path)(x, t), atol=1e-6)


def test_samples_depend_on_their_own_key_alone():
    path, sampler = PATHS["cosine"], samplers.ancestral(PATHS["cosine"], denoiser(PATHS["cosine"]))
    keys, times = jax.random.split(jax.random.key(5), 6), time_grid(PATHS["cosine"], 10, "nodes")
    run = lambda keys: samplers.simulate(keys, sampler, samplers.initial_noise(path, keys, (3, 1)), times)  # noqa: E731
    together, alone = run(keys), jnp.concatenate([run(keys[:2]), run(keys[2:])])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len(np.unique(np.asarray(together))) == together.size


def test_frames_are_evenly_spaced_states_that_end_in_the_result():
    path, times = PATHS["linear"], time_grid(PATHS["linear"], 10, "nodes")
    counter = samplers.memoryless(lambda keys, x, t, s: x * 0 + s)
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 1))
    frames = samplers.simulate(keys, counter, x, times, frames=5)
    assert frames.shape == (5, 2, 1)
    np.testing.assert_array_equal(frames[:, 0, 0], times[2::2])
    sampler = samplers.ancestral(path, denoiser(path))
    album, end = samplers.simulate(keys, sampler, x, times, frames=3), samplers.simulate(keys, sampler, x, times)
    np.testing.assert_array_equal(album[-1], end)
    assert len(samplers.simulate(keys, counter, x, times, frames=11)) == 10  # a step gives one frame at most
    with pytest.raises(ValueError, match="at least 1"):
        samplers.simulate(keys, sampler, x, times, frames=0)


def test_nfe_counts_the_calls_of_the_denoiser():
    path, times = PATHS["edm"], time_grid(PATHS["edm"], 6, "karras")
    for name, sampler in plans.SAMPLERS.items():
        calls = []

        def counting(x, t, calls=calls):
            jax.debug.callback(lambda: calls.append(1))
            return denoiser(path)(x, t)

        built = sampler(path, counting)
        samplers.simulate(jax.random.split(jax.random.key(0), 1), built, jnp.ones((1, 1)), times).block_until_ready()
        jax.effects_barrier()
        assert len(calls) == built.nfe(6), name


def test_clip_x0_bounds_the_estimate():
    path = PATHS["flow"]
    x = jnp.array([[-9.0], [0.2], [9.0]])
    clipped, free = samplers.clip_x0(denoiser(path))(x, 0.3), denoiser(path)(x, 0.3)
    np.testing.assert_array_equal(clipped, [[-1.0], free[1], [1.0]])


def test_initial_noise_has_the_scale_of_the_path():
    keys = jax.random.split(jax.random.key(0), 50_000)
    assert abs(samplers.initial_noise(PATHS["edm"], keys, (1,)).std() / 80 - 1) < 4 / (2 * len(keys)) ** 0.5


@pytest.mark.parametrize("options", [{"eta": -0.1}, {"eta": 1.5}])
def test_eta_outside_0_to_1_is_refused(options):
    with pytest.raises(ValueError, match="between 0 and 1"):
        samplers.ddim(PATHS["flow"], denoiser(PATHS["flow"]), **options)


def test_unknown_variance_is_refused():
    with pytest.raises(ValueError, match="fixed_large, fixed_small"):
        samplers.ancestral(PATHS["flow"], denoiser(PATHS["flow"]), "learned")
