import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import paths
from gm_jax.diffusion.grids import PUBLISHED, SPACINGS, time_grid
from tests.diffusion.gaussian import PATHS


@pytest.mark.parametrize("spacing", [spacing for spacing in SPACINGS if spacing not in PUBLISHED])
@pytest.mark.parametrize("name", PATHS)
def test_grids_fall_from_exactly_t_max_to_exactly_0(name, spacing):
    path = PATHS[name]
    path = path._replace(t_max=0.999) if name == "flow" and spacing in ("log_snr", "karras") else path
    for n in (1, 2, 17) if (name, spacing) != ("flow", "nodes") else (1,):
        times = jax.jit(lambda n=n: time_grid(path, n, spacing))()
        assert times.shape == (n + 1,) and times.dtype == jnp.float32
        assert times[0] == np.float32(path.t_max) and times[-1] == 0
        assert np.all(np.diff(times) < 0)


def test_grids_are_even_in_what_their_name_says():
    path = PATHS["linear"]
    log_snr = paths.log_snr(path, time_grid(path, 20, "log_snr")[:-1])
    np.testing.assert_allclose(np.diff(log_snr), np.diff(log_snr).mean(), rtol=1e-2)
    np.testing.assert_allclose(np.diff(np.sqrt(time_grid(path, 20, "quadratic")[:-1]), 2), 0, atol=1e-4)
    np.testing.assert_array_equal(time_grid(path, 1000, "nodes"), np.arange(1000, -1, -1))
    np.testing.assert_array_equal(time_grid(path, 4, "nodes"), [1000, 750, 500, 250, 0])
    np.testing.assert_array_equal(time_grid(path, 300, "nodes") % 1, 0)


def test_the_published_grids_are_those_of_ddims_code():
    """Its steps count from 0: seq = range(0, T, T // n), and (linspace(0, sqrt(0.8 T), n)^2).astype(int)."""
    path = PATHS["linear"]
    np.testing.assert_array_equal(time_grid(path, 50, "ddim_uniform"), [*range(981, 0, -20), 0])
    np.testing.assert_array_equal(time_grid(path, 300, "ddim_uniform"), [*range(898, 0, -3), 0])
    steps = [int(t) for t in np.linspace(0, np.sqrt(1000 * 0.8), 20) ** 2]
    np.testing.assert_array_equal(time_grid(path, 20, "ddim_quadratic"), [t + 1 for t in steps[::-1]] + [0])
    assert PUBLISHED.keys() == {"ddim_uniform", "ddim_quadratic"}


@pytest.mark.parametrize("n", [50, 100])
def test_the_published_quadratic_grid_also_has_the_papers_longer_lengths(n):
    """Table 1 is measured with 10, 20, 50 and 100 steps. From 30 on some of its whole numbers repeat; such a step of DDIM does
    nothing, and is left out."""
    steps = sorted({int(t) for t in np.linspace(0, np.sqrt(1000 * 0.8), n) ** 2}, reverse=True)
    np.testing.assert_array_equal(time_grid(PATHS["linear"], n, "ddim_quadratic"), [t + 1 for t in steps] + [0])


def test_karras_grid_equals_the_papers_formula():
    n, low, high = 18, 0.002, 80.0
    sigmas = (high ** (1 / 7) + np.arange(n) / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    np.testing.assert_allclose(time_grid(paths.edm_path(low, high), n, "karras"), np.append(sigmas, 0), rtol=1e-4)


@pytest.mark.parametrize(
    "name, n, spacing, reason",
    [
        ("linear", 1001, "nodes", "1000 nodes"),
        ("linear", 1001, "ddim_uniform", "1000 nodes"),
        ("linear", 1001, "ddim_quadratic", "1000 nodes"),
        ("flow", 10, "ddim_uniform", "1 nodes"),
        ("linear", 10, "sqrt", "unknown spacing"),
        ("linear", 0, "uniform", "at least one"),
        ("flow", 10, "log_snr", "pure noise"),
    ],
)
def test_grids_that_cannot_be_are_refused(name, n, spacing, reason):
    with pytest.raises(ValueError, match=reason):
        time_grid(PATHS[name], n, spacing)
