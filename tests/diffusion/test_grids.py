import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import paths
from gm_jax.diffusion.grids import SPACINGS, time_grid
from tests.diffusion.gaussian import PATHS


@pytest.mark.parametrize("spacing", SPACINGS)
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


def test_karras_grid_equals_the_papers_formula():
    n, low, high = 18, 0.002, 80.0
    sigmas = (high ** (1 / 7) + np.arange(n) / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    np.testing.assert_allclose(time_grid(paths.edm_path(low, high), n, "karras"), np.append(sigmas, 0), rtol=1e-4)


@pytest.mark.parametrize(
    "name, n, spacing, reason",
    [
        ("linear", 1001, "nodes", "1000 nodes"),
        ("linear", 10, "sqrt", "unknown spacing"),
        ("linear", 0, "uniform", "at least one"),
        ("flow", 10, "log_snr", "pure noise"),
    ],
)
def test_grids_that_cannot_be_are_refused(name, n, spacing, reason):
    with pytest.raises(ValueError, match=reason):
        time_grid(PATHS[name], n, spacing)
