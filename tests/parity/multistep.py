"""DPM-Solver++ and UniPC against diffusers' schedulers, every step, in float64.

The denoiser is the toy of `sampling`, read as x0. The schedulers, whose own tables are float32, are told sigma / alpha of our
grid. Their last step, to sigma = 0, is of first order, as ours; UniPC's with B(h) = -h is not a number there, and left out.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.diffusion import dpm_solver, unipc
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.paths import Path, log_snr
from gm_jax.diffusion.samplers import Sampler
from gm_jax.models.ddpm import get_beta_schedule
from tests.parity.comparison import Comparison, Values
from tests.parity.recipes import normal
from tests.parity.schedules import Size, in_float64, path_of
from tests.x64 import x64


class Case(NamedTuple):
    """A solver, and the scheduler that does the same."""

    sampler: Callable[..., Sampler]
    scheduler: str
    settings: dict[str, Any]
    path: str = "linear"  # of `schedules.path_of`
    middle: bool = False  # does a step also ask half way?
    last: bool = True  # is the last step compared?


SPACINGS = {"linear": "nodes", "vp": "uniform"}
DPM, UNIPC = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
CASES = {
    "DPM-Solver++ 2M": Case(dpm_solver.dpmpp_2m, DPM, {"solver_order": 2, "lower_order_final": False}),
    "DPM-Solver++ 3M, authors": Case(
        partial(dpm_solver.dpmpp_3m, authors=True), DPM, {"solver_order": 3, "lower_order_final": False}
    ),
    "DPM-Solver++ 2S": Case(dpm_solver.dpmpp_2s, "DPMSolverSinglestepScheduler", {"solver_order": 2}, path="vp", middle=True),
    "SDE-DPM-Solver++ 2M": Case(
        dpm_solver.dpmpp_2m_sde, DPM, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++", "lower_order_final": False}
    ),
    "UniPC 2, bh1": Case(partial(unipc.unipc, variant="bh1"), UNIPC, {"solver_order": 2, "solver_type": "bh1"}, last=False),
    "UniPC 2, bh2": Case(unipc.unipc, UNIPC, {"solver_order": 2, "solver_type": "bh2"}),
    "UniPC 3, bh2": Case(partial(unipc.unipc, order=3), UNIPC, {"solver_order": 3, "solver_type": "bh2"}),
}


def _toy(xp: Any, x: Any, share: Any) -> Any:
    return xp.tanh(0.8 * x + 0.5 * share) + 0.1 * x


def _trajectory(name: str, case: Case, size: Size) -> Comparison:
    path = path_of(case.path, size.T)
    times = np.asarray(time_grid(path, size.steps, SPACINGS[case.path]), np.float64)
    x, noise = normal("x", size.shape), normal("noise", (size.steps, *size.shape))
    return Comparison(
        what=f"sampler: {name}",
        package="diffusers",
        function=case.scheduler,
        inputs=f"{case.path} path, {size.steps} steps, x {size.shape}, toy answer as x0; float64, every step",
        tolerance=1e-10,
        ours=lambda: _ours(case, path, x, times, noise),
        theirs=lambda: _theirs(case, path, size.T, x, times, noise),
    )


def _ours(case: Case, path: Path, x: np.ndarray, times: np.ndarray, noise: np.ndarray) -> Values:
    """x after every step; `normal` gives back what it gets in place of keys: the noise."""
    with x64(True), mock.patch.object(dpm_solver, "normal", lambda noise, shape: noise):
        sampler = case.sampler(path, lambda x, t: _toy(jnp, x, t / path.t_max))
        x, memory = sampler.start(jnp.asarray(x), jnp.asarray(times))
        step, frames = jax.jit(sampler.step), []
        for z, t, s in zip(noise, times[:-1], times[1:], strict=True):
            x, memory = step(z, x, memory, t, s)
            frames.append(np.asarray(x))
    return _compared(case, frames)


def _theirs(case: Case, path: Path, T: int, x: np.ndarray, times: np.ndarray, noise: np.ndarray) -> Values:
    import torch

    frames, x = [], torch.from_numpy(x)
    asked = _asked(path, times) if case.middle else times[:-1]
    with in_float64(case.scheduler, noise) as make:
        scheduler = make(
            T,
            trained_betas=get_beta_schedule("linear", T),
            prediction_type="sample",
            final_sigmas_type="zero",
            **case.settings,
        )
        scheduler.set_timesteps(len(asked))
        with x64(True):
            at = jnp.asarray(asked)
            ratios = np.asarray(path.sigma(at) / path.alpha(at))
        scheduler.sigmas = torch.from_numpy(np.append(ratios, 0.0))
        scheduler.set_begin_index(0)
        for k, t in enumerate(asked):
            answer = torch.from_numpy(_toy(np, x.numpy(), t / path.t_max))
            x = scheduler.step(answer, scheduler.timesteps[k], x).prev_sample
            if not case.middle or k % 2 or k == len(asked) - 1:
                frames.append(x.numpy())
    return _compared(case, frames)


def _compared(case: Case, frames: list[np.ndarray]) -> Values:
    return {"x": np.stack(frames if case.last else frames[:-1])}


def _asked(path: Path, times: np.ndarray) -> np.ndarray:
    """The grid without its end, and between its times those half way in log-SNR."""
    with x64(True):
        levels = log_snr(path, jnp.asarray(times[:-1]))
        middles = np.asarray(path.t_of_log_snr((levels[:-1] + levels[1:]) / 2))
    return np.append(np.stack([times[:-2], middles], axis=1).ravel(), times[-2])


COMPARISONS: dict[str, Callable[[Size], Comparison]] = {name: partial(_trajectory, name, case) for name, case in CASES.items()}
