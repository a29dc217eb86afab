"""Ways to sample by name: which samplers there are, and how options become one on a grid of times."""

from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gm_jax.diffusion.dpm_solver import dpmpp_2m, dpmpp_2m_sde, dpmpp_2s, dpmpp_3m
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.paths import Denoiser, Path
from gm_jax.diffusion.reverse_sde import euler_maruyama, predictor_corrector
from gm_jax.diffusion.samplers import Sampler, Times, ancestral, ddim, euler, heun
from gm_jax.diffusion.unipc import unipc

SAMPLERS = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_3m": dpmpp_3m,
    "euler": euler,
    "euler_maruyama": euler_maruyama,
    "heun": heun,
    "predictor_corrector": predictor_corrector,
    "unipc": unipc,
}
# A long last step misses the image: one from the first node, say, where that is still noisy. So by default these go down to
# t_min before they jump to 0.
ODE_SOLVERS = ("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_3m", "euler", "heun", "unipc")
DETERMINISTIC = ("ddim", "dpmpp_2m", "dpmpp_2s", "dpmpp_3m", "euler", "heun", "unipc")  # with their own defaults


class Plan(NamedTuple):
    """A way to sample, checked: what `plan` makes of options given as names and numbers."""

    sampler: Callable[[Path, Denoiser], Sampler]
    times: Times
    nfe: int  # denoiser evaluations per sample


def plan(
    path: Path,
    choices: dict[str, Callable[..., Sampler]],
    sampler: str,
    steps: int,
    spacing: str,
    times: Sequence[float] = (),
    **options: Any,
) -> Plan:
    """The sampler of that name among `choices` with `options` of its own, on a grid of so many steps.

    `times`: those between t_max and 0, decreasing, in place of `steps` and `spacing`.

    Raises ValueError, in one line, for whatever the path, the grid or that sampler do not take.
    """
    if sampler not in choices:
        raise ValueError(f"unknown sampler {sampler!r}; choose {', '.join(choices)}")
    known = list(signature(choices[sampler]).parameters)[2:]  # behind path and denoiser
    for name in options:
        if name not in known:
            common = ["sampler", "steps", "spacing", "times"]
            raise ValueError(f"no option {name!r} with sampler {sampler!r}; take {', '.join([*common, *known])}")
    make = partial(choices[sampler], **options)
    at = given_times(path, times) if np.size(times) else time_grid(path, steps, spacing)
    return Plan(make, at, make(path, lambda x_t, t: x_t).nfe(len(at) - 1))


def given_times(path: Path, times: Sequence[float]) -> Times:
    """t_max, these times, 0. Raises ValueError unless they decrease and lie between."""
    times = np.ravel(np.asarray(times, np.float32))
    at = np.concatenate([[path.t_max], times, [0.0]]).astype(np.float32)
    if not np.all(np.diff(at) < 0):
        raise ValueError(
            f"times {tuple(times.tolist())} must decrease, and lie between t_max = {path.t_max:g} and 0, exclusively"
        )
    return jnp.asarray(at)
