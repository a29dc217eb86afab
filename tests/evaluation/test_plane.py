"""Points of a plane: pictures, distances to the exact density, and a model that learns them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import experiment
from gm_jax.build import resolve
from gm_jax.cli.config import load_config
from gm_jax.core import Likelihood, Model, Variables
from gm_jax.data import sources
from gm_jax.data.toys import TOYS
from gm_jax.errors import InputError
from gm_jax.evaluation import tasks
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.plane import exact_masses
from gm_jax.training.restore import load
from tests.test_build import ROOT
from tests.training.support import metrics


@pytest.fixture(scope="module")
def ring():
    return sources.load("ring")


@pytest.fixture
def exact(ring, tmp_path):
    """A model that is the ring itself."""
    modes, std = jnp.asarray(TOYS["ring"].modes, jnp.float32), TOYS["ring"].std

    def one(key):
        which, noise = jax.random.split(key)
        return modes[jax.random.randint(which, (), 0, 8)] + std * jax.random.normal(noise, (2,))

    def nats(variables, keys, x, labels=None):
        squares = ((x[:, None] - modes) ** 2).sum(-1) / std**2
        return -jax.nn.logsumexp(-squares / 2, axis=1) + jnp.log(8 * 2 * jnp.pi * std**2)

    model = Model(None, (), lambda variables, keys, labels=None: jax.vmap(one)(keys))
    model = model._replace(likelihoods=(Likelihood("nll", "exact", nats),))
    return Context(model, Variables({}), ring, tmp_path, model_name="ring itself")


def test_exact_samples_are_at_the_floor_and_find_all_modes(exact):
    found = tasks.evaluate(["points"], exact._replace(n=4000))["metrics"]
    floor = found["histogram_distance_4000_floor"]["value"]
    assert 0.7 * floor < found["histogram_distance_4000"]["value"] < 1.3 * floor
    assert found["modes_found_4000"]["value"] == found["modes_found_4000"]["of"] == 8
    assert found["high_quality_4000"]["value"] == pytest.approx(1 - np.exp(-4.5), abs=0.01)


def test_a_collapsed_model_is_far_away_and_misses_modes(exact):
    one_mode = exact.model._replace(sample=lambda v, keys, labels=None: exact.model.sample(v, keys) * 0 + jnp.array([1.0, 0.0]))
    found = tasks.evaluate(["points"], exact._replace(model=one_mode, n=1000))["metrics"]
    assert found["modes_found_1000"]["value"] == 1 and found["histogram_distance_1000"]["value"] > 0.9


def test_likelihoods_of_points_are_densities_in_nats(exact):
    found = tasks.evaluate(["likelihood"], exact._replace(n=500))["metrics"]
    assert set(found) == {"nll_nats", "nll_nats_floor"}
    assert found["nll_nats"]["value"] == pytest.approx(found["nll_nats_floor"]["value"], abs=1e-4)


def test_all_says_what_points_have_not(exact):
    written = tasks.evaluate(["all"], exact._replace(n=300))
    assert written["skipped"]["quality"] == "ring has no images" and "samples.png" in written["pictures"]
    assert "points" not in written["skipped"]


def test_only_known_densities_are_compared_with(ring):
    assert exact_masses(ring).sum() == pytest.approx(1, abs=1e-3)
    with pytest.raises(InputError, match="density of mine is not known"):
        exact_masses(ring._replace(name="mine"))


@pytest.mark.parametrize("name", ["ddpm", "vae"])
def test_the_ring_is_learnt_in_seconds(name, tmp_path):
    config = load_config(ROOT / f"configs/{name}.py", "ring")
    if name == "ddpm":
        config["model"] |= {"timesteps": 50, "network": {"name": "mlp", "channels": 64}}
        config["eval"]["sample"] = {"sampler": "ddim", "steps": 20}
    config["optimizer"] |= {"learning_rate": 5e-3, "ema_decay": 0.95, "warmup_steps": 20}
    config["train"] |= {"steps": 400, "batch_size": 256, "heldout_every": 0, "sample_every": 400, "proxy_every": 100}
    experiment.train(resolve(config), tmp_path / "run", quiet=True)
    key = "proxy/histogram_distance_256"
    curve = [line[key] for line in metrics(tmp_path / "run") if key in line]
    assert len(curve) == 4 and curve[-1] < min(0.85, curve[0])  # 0.99 of noise, 0.23 of exact samples
    assert (tmp_path / "run/samples/step_00000400.png").is_file()
    model, variables = load(tmp_path / "run")
    assert np.isfinite(model.sample(variables, jax.random.split(jax.random.key(0), 4))).all()
