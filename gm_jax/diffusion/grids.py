"""Grids of times from t_max down to 0, on which samplers step."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.diffusion.paths import Path, log_snr


def time_grid(path: Path, n: int, spacing: str) -> Float[Array, " n+1"]:
    """n+1 decreasing times in float32, from exactly t_max (but for the published grids) to exactly 0.

    Spacings: "uniform" (equal steps in t), "quadratic" (in sqrt t; Song et al. 2020, DDIM, appendix D.2), "log_snr" (Lu et
    al. 2022, DPM-Solver), "karras" (in (sigma/alpha)^(1/7); Karras et al. 2022, eq. 5), "nodes" (whole numbers, for
    discrete paths). All but "uniform" and "nodes" go down to t_min, then jump to 0.

    Two more are those of DDIM's own code (ermongroup/ddim), on which its published figures are measured; they begin below
    t_max: "ddim_uniform" (981, 961, ... 1 for 50 of 1000 steps) and "ddim_quadratic" (whole numbers, up to 0.8 of the steps;
    those that repeat are left out, so that 50 of 1000 steps are 49).

    Raises ValueError for an unknown spacing, n < 1, more steps than nodes, or a spacing in log-SNR on a path that ends in pure
    noise (alpha(t_max) = 0).
    """
    if spacing not in SPACINGS:
        raise ValueError(f"unknown spacing {spacing!r}; known: {', '.join(SPACINGS)}")
    if n < 1:
        raise ValueError(f"a grid needs at least one step, not {n}")
    with jax.ensure_compile_time_eval():  # concrete even inside jit
        times = SPACINGS[spacing](path, n)
        times = jnp.asarray(times, jnp.float32).at[-1].set(0.0)
        if spacing not in PUBLISHED:
            times = times.at[0].set(path.t_max)
        if not bool(jnp.all(times[1:] < times[:-1])):
            raise ValueError(f"{n} steps with {spacing!r} spacing are not distinct times in float32; take fewer steps")
    return times


def _uniform(path, n):
    return np.linspace(path.t_max, 0, n + 1)


def _quadratic(path, n):
    return _then_clean(path, np.linspace(path.t_max**0.5, path.t_min**0.5, n) ** 2)


def _log_snr(path, n):
    return _then_clean(path, path.t_of_log_snr(jnp.linspace(*_log_snr_ends(path), n)))


def _karras(path, n, rho=7):
    ends = np.exp(-0.5 * np.array(_log_snr_ends(path))) ** (1 / rho)
    return _then_clean(path, path.t_of_log_snr(jnp.asarray(-2 * rho * np.log(np.linspace(*ends, n)))))


def _nodes(path, n):
    return np.round(np.linspace(_node_count(path, n), 0, n + 1))


def _log_snr_ends(path):
    first, last = (float(log_snr(path, jnp.asarray(t))) for t in (path.t_max, path.t_min))
    if not np.isfinite(first):
        raise ValueError("this path ends in pure noise, where log-SNR is infinite; choose a smaller t_max or another spacing")
    return first, last


def _then_clean(path, times):
    return jnp.append(jnp.asarray(times).at[-1].set(path.t_min), 0.0)


def _ddim_uniform(path, n):
    nodes = _node_count(path, n)
    return np.append(np.arange(0, nodes, nodes // n)[:n][::-1] + 1, 0)


def _ddim_quadratic(path, n):
    nodes = _node_count(path, n)
    nodes = (np.linspace(0, (0.8 * nodes) ** 0.5, n) ** 2).astype(int)  # near 0 some repeat: their steps do nothing
    return np.append(np.unique(nodes)[::-1] + 1, 0)


def _node_count(path, n):
    if path.t_max != round(path.t_max) or n > path.t_max:
        raise ValueError(f"{n} steps do not fit on the {path.t_max:g} nodes of the path; take fewer steps or another spacing")
    return int(path.t_max)


PUBLISHED = {"ddim_uniform": _ddim_uniform, "ddim_quadratic": _ddim_quadratic}
SPACINGS = {
    "uniform": _uniform,
    "quadratic": _quadratic,
    "log_snr": _log_snr,
    "karras": _karras,
    "nodes": _nodes,
} | PUBLISHED
