"""How samplers are asked for, what they see of the grid, and that they can be wrapped."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import plans, samplers
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.langevin import annealed_langevin
from gm_jax.diffusion.plans import plan
from gm_jax.diffusion.predictions import velocity
from gm_jax.diffusion.samplers import Sampler, simulate
from tests.diffusion.gaussian import PATHS, denoiser
from tests.x64 import x64

PATH = PATHS["edm"]
KEYS = jax.random.split(jax.random.key(0), 3)


def adams_bashforth(path, denoiser):
    """A solver that remembers: the slope of the step before, and that step's length, 0 before the first."""

    def step(keys, x, memory, t, s):
        before, length = memory
        slope = velocity(path, denoiser(x, t), x, t)
        ratio = jnp.where(length == 0, 0.0, (s - t) / jnp.where(length == 0, 1.0, length))
        return x + (s - t) * ((1 + ratio / 2) * slope - ratio / 2 * before), (slope, s - t)

    return Sampler(step, start=lambda x, times: (x, (jnp.zeros_like(x), jnp.zeros((), times.dtype))))


ALL = {
    **plans.SAMPLERS,
    "ddim, eta 1": partial(samplers.ddim, eta=1.0),
    "langevin": partial(annealed_langevin, epsilon=4e-7, inner_steps=2),
    "adams_bashforth": adams_bashforth,
}


# --- plans --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", ["uniform", "karras", "log_snr"])
def test_explicit_times_are_the_grid_that_they_spell_out(spacing):
    expected = time_grid(PATH, 7, spacing)
    explicit = plan(PATH, plans.SAMPLERS, "heun", 99, "nodes", times=[float(t) for t in expected[1:-1]])
    np.testing.assert_array_equal(explicit.times, expected)
    assert explicit.nfe == plan(PATH, plans.SAMPLERS, "heun", 7, spacing).nfe == 13
    assert explicit.times.dtype == expected.dtype


@pytest.mark.parametrize("times", [(1.0, 2.0), (3.0, 3.0), (80.0, 1.0), (90.0,), (1.0, 0.0), (1.0, -1.0), (float("nan"),)])
def test_times_that_do_not_decrease_between_the_ends_are_refused(times):
    with pytest.raises(ValueError, match="must decrease, and lie between t_max = 80 and 0"):
        plan(PATH, plans.SAMPLERS, "ddim", 5, "uniform", times=times)


@pytest.mark.parametrize("times", [np.array([3.0, 1.0]), jnp.array([3.0, 1.0]), [3, 1], (3.0, 1.0)])
def test_times_may_be_an_array_or_a_list(times):
    made = plan(PATH, plans.SAMPLERS, "ddim", 99, "uniform", times=times)
    np.testing.assert_array_equal(made.times, [80, 3, 1, 0])


def test_what_a_sampler_does_not_take_is_refused_with_what_it_takes():
    with pytest.raises(ValueError, match="no option 'eta' with sampler 'euler'; take sampler, steps, spacing, times$"):
        plan(PATH, plans.SAMPLERS, "euler", 5, "uniform", eta=0.5)
    with pytest.raises(ValueError, match="unknown sampler 'dpm'; choose ancestral, ddim, .*, unipc"):
        plan(PATH, plans.SAMPLERS, "dpm", 5, "uniform")
    with pytest.raises(ValueError, match="eta is 2"):
        plan(PATH, plans.SAMPLERS, "ddim", 5, "uniform", eta=2.0)


def test_options_reach_the_sampler():
    x = jnp.ones((3, 1))
    made = plan(PATH, plans.SAMPLERS, "ddim", 3, "karras", eta=0.7)
    by_hand = samplers.ddim(PATH, denoiser(PATH), eta=0.7)
    np.testing.assert_array_equal(
        simulate(KEYS, made.sampler(PATH, denoiser(PATH)), x, made.times), simulate(KEYS, by_hand, x, made.times)
    )


# --- samplers in one loop -----------------------------------------------------------------------------------------------------


def test_start_sees_the_whole_grid_before_the_first_step():
    times = time_grid(PATH, 5, "karras")
    seen = Sampler(lambda keys, x, memory, t, s: (memory, memory), lambda x, times: (x, x * 0 + times.sum()))
    np.testing.assert_allclose(simulate(KEYS, seen, jnp.zeros((3, 1)), times), jnp.full((3, 1), times.sum()), rtol=1e-6)


def test_memory_is_carried_from_step_to_step_and_is_not_part_of_the_result():
    count = Sampler(lambda keys, x, n, t, s: (x + n, n + 1), lambda x, times: (x + 10, 1))
    times = time_grid(PATH, 4, "uniform")
    np.testing.assert_array_equal(simulate(KEYS, count, jnp.zeros((3, 1)), times), jnp.full((3, 1), 10.0 + 1 + 2 + 3 + 4))


def test_a_solver_that_remembers_is_of_second_order():
    x = PATH.t_max * np.array([[-1.2], [0.7], [1.9]])
    run = jax.jit(lambda x, times: simulate(KEYS, adams_bashforth(PATH, denoiser(PATH)), x, times))
    with x64(True):
        coarse, fine, exact = (run(x, time_grid(PATH, n, "karras")) for n in (40, 80, 640))
        assert 1.6 < np.log2(abs(coarse - exact).max() / abs(fine - exact).max()) < 2.6


@pytest.mark.parametrize("name", ALL)
def test_any_sampler_can_be_wrapped_by_one_that_alters_x_after_each_step(name):
    """Inpainting's idea: the first number is known. The others are those of a loop by hand over the bare steps."""
    known, times, bare = 0.25, time_grid(PATH, 5, "karras"), ALL[name](PATH, denoiser(PATH))
    by_hand = []

    def step(keys, x, memory, t, s):
        x, memory = bare.step(keys, x, memory, t, s)
        return x.at[:, 0].set(known), memory

    x_T = samplers.initial_noise(PATH, KEYS, (2,))
    wrapped = jax.jit(lambda x: simulate(KEYS, bare._replace(step=step), x, times, frames=5))(x_T)

    x, memory = bare.start(x_T, times)
    bare_step = jax.jit(bare.step)
    for k in range(5):
        keys = jax.vmap(jax.random.fold_in, (0, None))(KEYS, k)
        x, memory = bare_step(keys, x, memory, times[k], times[k + 1])
        x = x.at[:, 0].set(known)
        by_hand.append(x)
    np.testing.assert_allclose(wrapped, by_hand, rtol=1e-4, atol=1e-5)
    free = jax.jit(lambda x: simulate(KEYS, bare, x, times))(x_T)
    assert jnp.abs(free[:, 0] - known).max() > 1e-3
