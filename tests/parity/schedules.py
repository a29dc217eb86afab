"""Schedules, grid and forward process against diffusers' schedulers, and how those are made to compute in float64.

Their schedulers keep tables in float32; here `torch.float32` means float64 to the module of the scheduler.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import jax.numpy as jnp
import numpy as np

from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.paths import Path, add_noise, discrete_path, edm_path, flow_path, vp_path
from gm_jax.diffusion.predictions import target
from gm_jax.models.ddpm import get_beta_schedule
from tests.parity.comparison import Comparison, Values
from tests.parity.recipes import normal
from tests.x64 import x64


class Size(NamedTuple):
    """Of a comparison: steps of the chain, steps of the sampler, shape of x."""

    T: int = 1000
    steps: int = 50
    shape: tuple[int, ...] = (4, 3, 5)


def path_of(name: str, T: int) -> Path:
    """ "linear" and "cosine" are chains of T steps; "edm", "flow" and "vp" have none."""
    if name in ("linear", "cosine"):
        return discrete_path(get_beta_schedule(name, T))
    return {"edm": edm_path, "flow": flow_path, "vp": vp_path}[name]()


class _Double:
    """torch, but what is called float32 is float64."""

    def __init__(self, torch: ModuleType):
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, "float64" if name == "float32" else name)


@contextlib.contextmanager
def in_float64(name: str, noise: np.ndarray | None = None) -> Iterator[type]:
    """The scheduler of that name; meanwhile its tables are float64, and it draws `noise`, one row after the other."""
    import torch

    scheduler = getattr(importlib.import_module("diffusers"), name)
    module, draws = sys.modules[scheduler.__module__], iter(() if noise is None else torch.from_numpy(noise))
    with (
        mock.patch.object(module, "torch", _Double(torch)),
        mock.patch.object(module, "randn_tensor", lambda *_, **__: next(draws), create=True),
    ):
        yield scheduler


def _forward_process(size: Size) -> Comparison:
    n = 8
    x0, eps = normal("x0", (n, *size.shape[1:])), normal("eps", (n, *size.shape[1:]))
    nodes, betas = np.linspace(1, size.T, n).round().astype(int), get_beta_schedule("cosine", size.T)

    def ours() -> Values:
        with x64(True):
            path, t = discrete_path(betas), jnp.asarray(nodes, float)
            return {"x_t": np.asarray(add_noise(path, x0, eps, t)), "v": np.asarray(target(path, "v", x0, eps, t))}

    def theirs() -> Values:
        import torch

        with in_float64("DDPMScheduler") as make:
            scheduler = make(size.T, trained_betas=betas)
            given = (torch.from_numpy(x0), torch.from_numpy(eps), torch.from_numpy(nodes - 1))
            return {"x_t": scheduler.add_noise(*given).numpy(), "v": scheduler.get_velocity(*given).numpy()}

    inputs = f"cosine path, {n} nodes of {size.T}; float64"
    return Comparison("noised images, v target", "diffusers", "DDPMScheduler", inputs, 1e-10, ours, theirs)


def _schedules(size: Size) -> Comparison:
    names = {"linear": "linear", "cosine": "squaredcos_cap_v2"} if size.T == 1000 else {"cosine": "squaredcos_cap_v2"}

    def theirs() -> Values:
        with in_float64("DDPMScheduler") as make:
            return {ours: make(size.T, beta_schedule=name).betas.numpy() for ours, name in names.items()}

    inputs = f"{' and '.join(names)}, {size.T} steps; float64"
    ours = lambda: {name: get_beta_schedule(name, size.T) for name in names}  # noqa: E731
    return Comparison("betas of the schedules", "diffusers", "DDPMScheduler", inputs, 1e-12, ours, theirs)


def _grid(size: Size) -> Comparison:
    def theirs() -> Values:
        from diffusers import EDMEulerScheduler

        scheduler = EDMEulerScheduler()
        scheduler.set_timesteps(size.steps)
        return {"sigma": scheduler.sigmas.numpy()}

    inputs = f"{size.steps} steps from 80 to 0.002, then 0; float32"
    ours = lambda: {"sigma": np.asarray(time_grid(edm_path(), size.steps, "karras"))}  # noqa: E731
    return Comparison("times: karras", "diffusers", "EDMEulerScheduler", inputs, 1e-6, ours, theirs, relative=True)


COMPARISONS: dict[str, Callable[[Size], Comparison]] = {
    "forward process": _forward_process,
    "schedules": _schedules,
    "grid": _grid,
}
