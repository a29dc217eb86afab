"""Which noise goes with which image, and how straight a flow is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion.coupling import optimal_transport, straightness
from gm_jax.diffusion.grids import time_grid
from tests.diffusion.gaussian import MEAN, PATHS, STD, denoiser
from tests.x64 import x64

X, EPS = (jax.random.normal(jax.random.key(seed), (6, 2, 1)) for seed in (0, 1))


def test_no_other_assignment_is_shorter():
    found = optimal_transport(X, EPS)
    np.testing.assert_array_equal(np.sort(found, axis=0), np.sort(EPS, axis=0))
    cost = np.array(((X[:, None] - EPS[None]) ** 2).sum((2, 3)))
    least = min(cost[range(6), list(order)].sum() for order in itertools.permutations(range(6)))
    np.testing.assert_allclose(((X - found) ** 2).sum(), least, rtol=1e-5)


def test_in_one_dimension_the_order_is_kept():
    x, eps = (jax.random.normal(jax.random.key(seed), (50, 1)) for seed in (2, 3))
    np.testing.assert_array_equal(np.argsort(optimal_transport(x, eps)[:, 0]), np.argsort(x[:, 0]))


@pytest.mark.parametrize("devices", [2, 4])
def test_the_batch_of_all_devices_is_assigned_at_once(devices):
    x, eps = (jax.random.normal(jax.random.key(seed), (8, 3)) for seed in (4, 5))
    split = lambda a: a.reshape(devices, -1, 3)  # noqa: E731
    shared = jax.vmap(lambda x, eps: optimal_transport(x, eps, "devices"), axis_name="devices")(split(x), split(eps))
    np.testing.assert_array_equal(shared.reshape(8, 3), optimal_transport(x, eps))


def test_the_flow_to_a_point_is_straight():
    path, x = PATHS["flow"], jnp.array([[-1.0], [0.5]])
    times = time_grid(path, 50, "uniform")
    np.testing.assert_allclose(straightness(path, lambda x_t, t: jnp.full_like(x_t, 0.3), x, times), 0, atol=1e-6)


def test_straightness_of_gaussian_data_is_the_variance_of_its_velocity():
    """The exact flow is x_t = (1 - t) mean + z sqrt((1 - t)^2 std^2 + t^2), z the noise."""
    path, z = PATHS["flow"], np.array([-1.3, 0.4, 2.0])
    t = (np.arange(100_000) + 0.5) / 100_000
    speed = -MEAN + z[:, None] * (t - (1 - t) * STD**2) / np.sqrt((1 - t) ** 2 * STD**2 + t**2)
    with x64(True):
        x = jnp.asarray(z)[:, None]
        found = [straightness(path, denoiser(path), x, jnp.linspace(1.0, 0.0, n + 1)) for n in (200, 400)]
    errors = [np.abs(np.asarray(f) - speed.var(axis=1)).max() for f in found]
    assert errors[1] < 0.01 * speed.var(axis=1).max() and 1.7 < errors[0] / errors[1] < 2.3
