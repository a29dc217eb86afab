"""The task that says how straight a flow is: of flows alone, and right where the flow is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Diffusion, Variables
from gm_jax.data import sources
from gm_jax.diffusion.paths import edm_path, flow_path
from gm_jax.errors import InputError
from gm_jax.evaluation import tasks
from gm_jax.evaluation.context import Context
from tests.diffusion.gaussian import MEAN, STD, denoiser
from tests.formulas import model_of


def straightness_of(denoiser, path, folder):
    model = model_of(lambda x, t, *rest: x, shape=(2,))._replace(diffusion=Diffusion(path, lambda *args: denoiser))
    context = Context(model, Variables({"network": {}}), sources.load("ring"), folder, n=400)
    return tasks.evaluate(["straightness"], context)["metrics"]["straightness"]


def test_the_way_to_a_point_is_straight(tmp_path):
    found = straightness_of(lambda x, t: jnp.full_like(x, 0.3), flow_path(), tmp_path)
    assert abs(found["value"]) < 1e-6 and found["n"] == 400 and "sampling" not in found


def test_the_way_to_gaussian_data_is_bent_as_much_as_it_should_be(tmp_path):
    """E z^2 = 1 times the variance over time of the slope of sqrt((1 - t)^2 std^2 + t^2)."""
    t = (np.arange(10_000) + 0.5) / 10_000
    slope = (t - (1 - t) * STD**2) / np.sqrt((1 - t) ** 2 * STD**2 + t**2)
    found = straightness_of(denoiser(flow_path()), flow_path(), tmp_path)
    assert abs(found["value"] - slope.var()) < 4 * found["stderr"] + 0.02 * slope.var() and MEAN != 0


def test_it_is_of_straight_lines_alone(tmp_path):
    with pytest.raises(InputError, match="no path of straight lines"):
        straightness_of(denoiser(edm_path()), edm_path(), tmp_path)
