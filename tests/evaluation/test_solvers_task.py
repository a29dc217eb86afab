"""The task that compares solvers, on the ring, whose denoiser is known."""

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from gm_jax.core import Variables
from gm_jax.data import sources
from gm_jax.data.toys import TOYS
from gm_jax.diffusion import plans
from gm_jax.evaluation import solvers, tasks
from gm_jax.evaluation.context import Context
from tests.formulas import model_of

MODES, STD = jnp.asarray(TOYS["ring"].modes, jnp.float32), TOYS["ring"].std


def exact(x, t, *rest):
    """E[x0 | x0 + t eps]."""
    level = jnp.reshape(jnp.broadcast_to(t, x.shape[:1]), (-1, 1, 1))
    spread, apart = STD**2 + level**2, x[:, None] - MODES
    share = jax.nn.softmax(-(apart**2).sum(-1, keepdims=True) / (2 * spread), axis=1)
    return (share * (MODES + STD**2 / spread * apart)).sum(1)


@pytest.fixture
def found(tmp_path, monkeypatch):
    chosen = {name: plans.SAMPLERS[name] for name in ("ancestral", "ddim", "heun", "euler_maruyama")}
    monkeypatch.setattr(plans, "SAMPLERS", chosen)
    monkeypatch.setattr(solvers, "BUDGETS", (9, 41))
    monkeypatch.setattr(solvers, "REFERENCE", {"sampler": "unipc", "order": 3, "steps": 200})
    context = Context(model_of(exact, shape=(2,)), Variables({"network": {}}), sources.load("ring"), tmp_path, n=2000)
    return tasks.evaluate(["solvers"], context), tmp_path


def test_errors_fall_with_the_cost_and_heun_is_ahead(found):
    metrics = found[0]["metrics"]
    error = {name: entry["value"] for name, entry in metrics.items() if name.startswith("solver_error")}
    assert error.keys() == {f"solver_error_{name}" for name in ("ddim_9", "ddim_41", "heun_9", "heun_41")}
    assert error["solver_error_ddim_41"] < error["solver_error_ddim_9"] * 0.8
    assert error["solver_error_heun_41"] < error["solver_error_heun_9"] * 0.8
    assert error["solver_error_heun_41"] < error["solver_error_ddim_41"] * 0.8
    distance = metrics["solver_histogram_distance_2000_heun_41"]
    assert distance["value"] < 0.2 and distance["nfe"] == 41 and distance["sampling"] == {"sampler": "heun", "steps": 21}
    assert "solver_histogram_distance_2000_euler_maruyama_41" in metrics  # which follows no ODE


def test_a_picture_and_a_table_are_left(found):
    _, folder = found
    with Image.open(folder / "solvers.png") as picture:
        assert picture.width > 2 * picture.height
    lines = (folder / "solvers.md").read_text().splitlines()
    assert len(lines) == 2 + 1 + 2 * 4
    assert lines[2].startswith("| default |  | 3 |") and lines[2].split("|")[6].strip() == "+0"
