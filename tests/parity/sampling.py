"""Samplers against diffusers' schedulers, every step, in float64.

The denoiser is a toy, answer(x, t) = tanh(0.8 x + 0.5 t / t_max) + 0.1 x, read as eps, x0, v or velocity.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.diffusion import samplers
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.paths import Denoiser, Path
from gm_jax.diffusion.predictions import to_x0
from gm_jax.models.ddpm import get_beta_schedule
from tests.parity import multistep, schedules
from tests.parity.comparison import Comparison, Values
from tests.parity.recipes import normal
from tests.parity.schedules import Size, in_float64, path_of
from tests.x64 import x64

SPACINGS = {"linear": "nodes", "cosine": "nodes", "edm": "karras", "flow": "uniform"}
THEIR_NAMES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


class Case(NamedTuple):
    """A sampler on a path, and the scheduler that does the same."""

    path: str  # of `schedules.path_of`
    sampler: Callable[[Path, Denoiser], samplers.Sampler]
    scheduler: str
    prediction: str  # how the toy's answer is read
    clip: bool = False  # x0 to [-1, 1]
    settings: dict[str, Any] = {}  # of the scheduler
    call: dict[str, Any] = {}  # of its step
    all_steps: bool = False  # of the chain


def _ancestral(path: str, variance: str, prediction: str, clip: bool, all_steps: bool = False) -> Case:
    sampler = partial(samplers.ancestral, variance=variance)
    return Case(path, sampler, "DDPMScheduler", prediction, clip, {"variance_type": variance}, all_steps=all_steps)


def _ddim(path: str, eta: float, prediction: str, clip: bool) -> Case:
    call = {"eta": eta, "use_clipped_model_output": clip}  # eps that fits the clipped x0, as ours
    return Case(path, partial(samplers.ddim, eta=eta), "DDIMScheduler", prediction, clip, call=call)


CASES = {
    "ancestral, beta, all steps": _ancestral("linear", "fixed_large", "eps", True, all_steps=True),
    "ancestral, beta-tilde": _ancestral("linear", "fixed_small", "eps", True),
    "ancestral, beta, v": _ancestral("cosine", "fixed_large", "v", True),
    "ancestral, beta-tilde, x0": _ancestral("cosine", "fixed_small", "x0", False),
    "DDIM, eta 0": _ddim("linear", 0.0, "eps", True),
    "DDIM, eta 0.5": _ddim("linear", 0.5, "eps", True),
    "DDIM, eta 1": _ddim("linear", 1.0, "eps", True),
    "DDIM, eta 0, v": _ddim("cosine", 0.0, "v", False),
    "DDIM, eta 0.5, x0": _ddim("cosine", 0.5, "x0", False),
    "Euler": Case("edm", samplers.euler, "EulerDiscreteScheduler", "x0"),
    "Heun": Case("edm", samplers.heun, "HeunDiscreteScheduler", "x0"),
    "Euler, velocity": Case("flow", samplers.euler, "FlowMatchEulerDiscreteScheduler", "velocity"),
    "Heun, velocity": Case("flow", samplers.heun, "FlowMatchHeunDiscreteScheduler", "velocity"),
}


def _trajectory(name: str, case: Case, size: Size) -> Comparison:
    path, steps = path_of(case.path, size.T), size.T if case.all_steps else size.steps
    times = np.asarray(time_grid(path, steps, SPACINGS[case.path]), np.float64)
    x, noise = path.t_max ** (case.path == "edm") * normal("x", size.shape), normal("noise", (steps, *size.shape))
    if not case.all_steps:
        noise[-1] = 0  # DDPMScheduler adds noise in the step to clean data, too, where that starts above node 1; we never do
    clip = ", x0 clipped" if case.clip else ""
    return Comparison(
        what=f"sampler: {name}",
        package="diffusers",
        function=case.scheduler,
        inputs=f"{case.path} path, {steps} steps, x {size.shape}, toy answer as {case.prediction}{clip}; float64, every step",
        tolerance=1e-10,
        ours=lambda: _our_trajectory(case, path, x, times, noise),
        theirs=lambda: _their_trajectory(case, size.T, path.t_max, x, times, noise),
    )


def _toy(xp: ModuleType, x: Any, share: Any) -> Any:
    return xp.tanh(0.8 * x + 0.5 * share) + 0.1 * x


def _our_trajectory(case: Case, path: Path, x: np.ndarray, times: np.ndarray, noise: np.ndarray) -> Values:
    """x after every step; `samplers.normal` gives back what it gets in place of keys: the noise."""

    def denoiser(x_t, t):
        return to_x0(path, case.prediction, _toy(jnp, x_t, t / path.t_max), x_t, t)

    with x64(True), mock.patch.object(samplers, "normal", lambda noise, shape: noise):
        sampler = case.sampler(path, samplers.clip_x0(denoiser) if case.clip else denoiser)
        step = jax.jit(lambda z, x, t, s: sampler.step(z, x, (), t, s)[0])
        frames = []
        for z, t, s in zip(noise, times[:-1], times[1:], strict=True):
            x = step(z, x, t, s)
            frames.append(np.asarray(x))
    return {"x": np.stack(frames)}


def _their_trajectory(case: Case, T: int, t_max: float, x: np.ndarray, times: np.ndarray, noise: np.ndarray) -> Values:
    import torch

    frames, x = [], torch.from_numpy(x)
    with in_float64(case.scheduler, noise) as make:
        scheduler = _discrete(make, case, T, times) if case.path in ("linear", "cosine") else _continuous(make, case, times)
        asked = np.concatenate([times[:1], times[1:-1].repeat(scheduler.order)])  # a step of Heun's is two of its scheduler
        for k, t in enumerate(asked):
            answer = _toy(np, x.numpy(), t / t_max)
            x = scheduler.step(torch.from_numpy(answer), scheduler.timesteps[k], x, **case.call).prev_sample
            if getattr(scheduler, "dt", None) is None or k == len(asked) - 1:  # dt: half of Heun's step is done
                frames.append(x.numpy())
    return {"x": np.stack(frames)}


def _discrete(make: type, case: Case, T: int, times: np.ndarray) -> Any:
    scheduler = make(
        T,
        trained_betas=get_beta_schedule(case.path, T),
        prediction_type=THEIR_NAMES[case.prediction],
        clip_sample=case.clip,
        timestep_spacing="trailing",
        **case.settings,
    )
    scheduler.set_timesteps(len(times) - 1)
    assert (scheduler.timesteps.numpy() + 1 == times[:-1]).all()
    return scheduler


def _continuous(make: type, case: Case, times: np.ndarray) -> Any:
    """Told the grid, as its own is float32."""
    import torch

    scheduler = make(prediction_type=THEIR_NAMES[case.prediction]) if case.prediction in THEIR_NAMES else make()
    scheduler.set_timesteps(len(times) - 1)
    inner = times[1:-1].repeat(scheduler.order)
    scheduler.sigmas = torch.from_numpy(np.concatenate([times[:1], inner, times[-1:]]))
    scheduler.timesteps, scheduler.is_scale_input_called = scheduler.sigmas[:-1], True  # the toy takes x as it is
    scheduler.set_begin_index(0)
    return scheduler


COMPARISONS: dict[str, Callable[[Size], Comparison]] = {
    **{name: partial(_trajectory, name, case) for name, case in CASES.items()},
    **multistep.COMPARISONS,
    **schedules.COMPARISONS,
}
