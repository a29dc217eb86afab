"""Solvers of the ODE and of the reverse SDE on data whose denoiser is known: their order, their noise, their ends."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import plans, samplers
from gm_jax.diffusion.dpm_solver import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, dpmpp_3m
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.paths import edm_path, flow_path, log_snr, sub_vp_path, ve_path, vp_path
from gm_jax.diffusion.predictions import drift_and_diffusion
from gm_jax.diffusion.reverse_sde import euler_maruyama, predictor_corrector
from gm_jax.diffusion.unipc import unipc
from tests.diffusion.gaussian import MEAN, STD, denoiser, marginal, mixture_denoiser
from tests.x64 import x64

PATHS = {"flow": flow_path(), "edm": edm_path(), "vp": vp_path(), "sub_vp": sub_vp_path(), "ve": ve_path()}
DATA = {"gaussian": denoiser, "mixture": mixture_denoiser}
KEYS = jax.random.split(jax.random.key(0), 3)
DETERMINISTIC = {  # with the order that theory has
    "dpmpp_2m": (dpmpp_2m, 2),
    "dpmpp_2s": (dpmpp_2s, 2),
    "dpmpp_3m": (dpmpp_3m, 3),
    "dpmpp_3m of the authors": (partial(dpmpp_3m, authors=True), 2),
    "unipc 1": (partial(unipc, order=1), 2),
    "unipc 2": (unipc, 3),
    "unipc 2 bh1": (partial(unipc, variant="bh1"), 3),
    "unipc 3": (partial(unipc, order=3), 3),  # but for the last steps 4
}


# --- order --------------------------------------------------------------------------------------------------------------------


def even_times(path, steps, first, last):
    """Evenly spaced in log-SNR between two times; then 0, which is not gone to, but which solvers look ahead to."""
    ends = (log_snr(path, jnp.asarray(t)) for t in (first, last))
    return jnp.append(path.t_of_log_snr(jnp.linspace(*ends, steps + 1)), 0.0)


@partial(jax.jit, static_argnames=("name", "data", "solver", "steps"))
def error(name, data, solver, steps):
    """The largest distance at sigma / alpha = 0.1 from the solution that begins at 20, after two steps from exact states."""
    path = PATHS[name]
    estimate = DATA[data](path)
    first, last = path.t_of_log_snr(-2 * jnp.log(jnp.array([20.0, 0.1])))
    times, fine = even_times(path, steps, first, last), even_times(path, 1280, first, last)[:-1]
    mean, std = marginal(path, first)
    x = mean + std * jnp.array([[-1.2], [0.7], [1.9]])
    exact = samplers.simulate(KEYS, unipc(path, estimate), x, fine, frames=steps)
    made = DETERMINISTIC[solver][0](path, estimate)
    _, memory = made.start(x, times)
    for state, k in ((x, 0), (exact[0], 1)):
        _, memory = made.step(KEYS, state, memory, times[k], times[k + 1])
    step = lambda carry, ends: (made.step(KEYS, *carry, *ends), None)  # noqa: E731
    (x, _), _ = jax.lax.scan(step, (exact[1], memory), (times[2:-2], times[3:-1]))
    return jnp.abs(x - exact[-1]).max()


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize(("name", "data"), [("flow", "gaussian"), ("edm", "mixture"), ("vp", "mixture")])
def test_the_error_falls_with_the_order_of_the_solver(name, data, solver):
    with x64(True):
        coarse, fine = (float(error(name, data, solver, steps)) for steps in (20, 40))
    order = np.log2(coarse / fine)
    low, high = (-0.35, 0.7) if DETERMINISTIC[solver][1] == 2 else (-0.5, 1.7)
    assert DETERMINISTIC[solver][1] + low < order < DETERMINISTIC[solver][1] + high
    assert fine < 0.02


# --- ends ---------------------------------------------------------------------------------------------------------------------


def named():
    options = {"unipc": {"order": 3}, "heun": {"s_churn": 10.0}, "predictor_corrector": {"corrector_steps": 2}}
    return {name: partial(sampler, **options.get(name, {})) for name, sampler in plans.SAMPLERS.items()}


@pytest.mark.parametrize("sampler", named())
@pytest.mark.parametrize("name", PATHS)
def test_a_single_point_comes_out_exactly(name, sampler):
    path = PATHS[name]
    if name == "flow" and sampler in ("euler_maruyama", "predictor_corrector"):
        with pytest.raises(ValueError, match=f"{sampler} cannot start from pure noise"):
            plans.SAMPLERS[sampler](path, None)
        return
    point = jnp.array([0.3, -0.8])
    made = named()[sampler](path, lambda x_t, t: jnp.broadcast_to(point, x_t.shape))
    straight = name in ("vp", "sub_vp", "ve") and sampler in ("euler", "heun")  # in t, where sigma is curved
    x, steps = samplers.initial_noise(path, KEYS, (2,)), 40 if straight else 5
    times = time_grid(path, steps, "uniform" if name == "flow" else "karras")
    end = jax.jit(lambda: samplers.simulate(KEYS, made, x, times))()
    np.testing.assert_allclose(end, jnp.tile(point, (3, 1)), atol=1e-5)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "dpmpp_2m_sde", "unipc"])
def test_steps_from_pure_noise_and_to_clean_data_are_those_of_ddim(solver):
    """Where lambda is infinite there is no second order; nothing is NaN."""
    path, x = PATHS["flow"], jnp.array([[-0.5], [1.0], [2.0]])
    estimate = denoiser(path)
    made, ddim = plans.SAMPLERS[solver](path, estimate), samplers.ddim(path, estimate)
    times = jnp.array([1.0, 0.6, 0.0])
    x, memory = made.start(x, times)
    ours, memory = made.step(KEYS, x, memory, times[0], times[1])
    if solver != "dpmpp_2m_sde":
        np.testing.assert_allclose(ours, ddim.step(KEYS, x, (), times[0], times[1])[0], atol=1e-6)
    end, _ = made.step(KEYS, ours, memory, times[1], times[2])
    np.testing.assert_allclose(end, estimate(ours, times[1]), atol=1e-6)


# --- noise --------------------------------------------------------------------------------------------------------------------


def drawn(sampler, name, steps, n=20_000, dim=1, spacing="karras"):
    path = PATHS[name]
    keys, times = jax.random.split(jax.random.key(1), n), time_grid(path, steps, spacing)
    x = samplers.initial_noise(path, keys, (dim,))
    return jax.jit(lambda: samplers.simulate(keys, sampler(path, denoiser(path)), x, times))(), times


def test_euler_maruyama_has_the_mean_and_variance_of_its_recursion():
    path = PATHS["vp"]
    x, times = drawn(euler_maruyama, "vp", 40)
    mean, variance = 0.0, path.sigma(times[0]) ** 2
    one = jnp.ones((1, 1))
    for t, s in zip(times[:-2], times[1:-1], strict=True):
        f, g2 = drift_and_diffusion(path, t, one)
        center, std = marginal(path, t)
        gain = 1 + (s - t) * (f + g2 / std**2)  # the score is (center - x) / std^2
        mean, variance = gain * mean - (s - t) * g2 * center / std**2, gain**2 * variance + g2 * (t - s)
    to_x0 = [float(denoiser(path)(value * one, times[-2])[0, 0]) for value in (mean, mean + jnp.sqrt(variance))]
    tolerance = 4 / len(x) ** 0.5
    assert abs(x.mean() - to_x0[0]) < tolerance * STD
    assert abs(x.std() / (to_x0[1] - to_x0[0]) - 1) < tolerance


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("ve", euler_maruyama),
        ("vp", dpmpp_2m_sde),
        ("edm", dpmpp_2m_sde),
        ("edm", partial(samplers.heun, s_churn=20.0)),
        ("vp", partial(samplers.heun, s_churn=20.0)),
        ("ve", predictor_corrector),
        ("sub_vp", predictor_corrector),
    ],
)
def test_noise_comes_and_goes_in_the_right_amount(name, sampler):
    of = (
        {"n": 300, "dim": 64, "spacing": "uniform"} if sampler is predictor_corrector else {}
    )  # which looks at the norm of an example
    coarse, fine = (drawn(sampler, name, steps, **of)[0] for steps in (20, 160))
    error = [abs(float(x.std()) / STD - 1) for x in (coarse, fine)]
    limit = 0.05 if sampler is predictor_corrector else 0.02  # whose corrector's step does not shrink with the grid
    assert error[1] < max(error[0] / 2, 0.01) + 0.01 and error[1] < limit
    assert abs(float(fine.mean()) - MEAN) < 0.03


def test_churn_raises_the_noise_by_what_it_says_within_its_limits():
    path, x = PATHS["edm"], jnp.zeros((20_000, 1))
    keys = jax.random.split(jax.random.key(2), len(x))
    run = partial(samplers.churn, path, keys, x, jnp.asarray(2.0))
    raised, t = run(0.1, 0.0, jnp.inf, 1.5)
    assert t == pytest.approx(2.2)
    assert raised.std() == pytest.approx(1.5 * (2.2**2 - 4) ** 0.5, rel=0.02)
    for low, high in ((2.1, 9.0), (0.0, 1.9)):
        left, t = run(0.1, low, high, 1.0)
        assert t == 2 and not left.any()
    vp, before = PATHS["vp"], jnp.asarray(0.4)
    moved, t = samplers.churn(vp, keys, x + 1.0, before, 0.3, 0.0, jnp.inf, 1.0)
    level = lambda t: vp.sigma(t) / vp.alpha(t)  # noqa: E731
    assert float(level(t) / level(before)) == pytest.approx(1.3, rel=1e-4)
    kept = vp.alpha(t) / vp.alpha(before)
    assert moved.mean() == pytest.approx(float(kept), abs=0.02)
    assert moved.std() == pytest.approx(float(vp.sigma(t) ** 2 - (kept * vp.sigma(before)) ** 2) ** 0.5, rel=0.02)


def test_churn_is_shared_out_over_the_steps_and_never_more_than_sqrt_2():
    path, raises = PATHS["edm"], []
    for s_churn, steps in ((2.0, 10), (100.0, 10)):
        made = samplers.heun(path, lambda x_t, t: raises.append(float(t)) or x_t, s_churn=s_churn)
        x, memory = made.start(jnp.zeros((1, 1)), time_grid(path, steps, "karras"))
        with jax.disable_jit():
            made.step(KEYS[:1], x, memory, jnp.asarray(1.0), jnp.asarray(0.0))
    np.testing.assert_allclose(raises, [1.2, 2**0.5], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (partial(samplers.heun, s_churn=-1.0), "s_churn=-1"),
        (partial(samplers.heun, s_min=2.0, s_max=1.0), "s_max"),
        (partial(unipc, order=4), "order is 4"),
        (partial(unipc, variant="bh3"), "known: bh1, bh2"),
        (partial(predictor_corrector, snr=0.0), "snr=0"),
        (partial(predictor_corrector, corrector_steps=0), "corrector_steps=0"),
    ],
)
def test_options_without_meaning_are_refused(make, reason):
    with pytest.raises(ValueError, match=reason):
        make(PATHS["edm"], None)
