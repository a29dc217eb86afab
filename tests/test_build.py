"""From settings to a model: what may be set, what is refused, and that every config trains."""

import inspect
import json
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import build, cli, experiment
from gm_jax.cli.presets import base, own
from gm_jax.core import Batch, Model, Objective
from gm_jax.data.sources import load
from gm_jax.defaults import plain
from gm_jax.errors import InputError
from gm_jax.settings import Count, Section
from gm_jax.training.restore import restore

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common"))
PARTS = (Objective("one", None, "a"), Objective("two", None, "b"))


def make(
    image_shape,
    num_classes=None,
    dtype=None,
    axis_name=None,
    build=None,
    *,
    widths: tuple[tuple[Count, ...], ...] = ((1,), (2,)),
    depth: int = 1,
    teacher: Section("model") = {"name": "vae", "latent_dim": 3},  # noqa: B006
    variance: float | Literal["optimal"] = 1.0,
    objectives=PARTS,
) -> Model:
    """The `make` of a model that only remembers what it was given."""
    if depth < 1:
        raise ValueError("depth must be positive")
    given = {"shape": image_shape, "classes": num_classes, "dtype": dtype, "axis": axis_name, "widths": widths}
    part = build(teacher, (4, 4, 1))
    return Model(
        init=None, objectives=objectives, sample=lambda: given | {"teacher": teacher, "part": part, "variance": variance}
    )


def built(image_shape=(8, 8, 1), num_classes=10, axis_name=None, precision="float32", **model):
    return build.build_model({"model": model, "precision": precision}, image_shape, num_classes, axis_name)


# --- what make gets -----------------------------------------------------------------------------------------------------------


def test_make_gets_the_settings_and_what_it_names_of_the_context():
    given = built([8, 8, 1], 10, "batch", "bfloat16", name=__name__, widths=[[1, 2], 3]).sample()
    wanted = {"shape": (8, 8, 1), "classes": 10, "dtype": jnp.bfloat16, "axis": "batch", "widths": ((1, 2), (3,))}
    assert {key: given[key] for key in wanted} == wanted
    assert built(name=__name__, precision="auto").sample()["dtype"] == jnp.float32  # on a CPU
    assert built(name="tests.toys.toy_gan").objectives[1].every == 5  # its make names image_shape only
    assert built(name="tests.toys.toy_gan", generator_every=3).objectives[1].every == 3


def test_a_part_is_built_from_a_section_over_its_default():
    given = built(name=__name__, teacher={"network": {"channels": 8}}).sample()
    assert given["teacher"]["latent_dim"] == 3 and given["teacher"]["network"]["channels"] == 8
    assert given["teacher"]["beta"] == 1.0  # of the teacher's own make
    assert [o.name for o in given["part"].objectives] == ["vae"]
    other = built(name=__name__, teacher={"name": "ddpm"}).sample()["teacher"]  # another model: nothing of the default
    assert other["timesteps"] == 1000 and "latent_dim" not in other


@pytest.mark.parametrize(
    "model, message",
    [
        ({"name": "vea"}, "unknown model 'vea'; choose .*vae"),
        ({}, "model.name is missing"),
        ({"name": "no.such.module"}, "model 'no.such.module' cannot be used .*make"),
        ({"name": "gm_jax.images"}, "model 'gm_jax.images' cannot be used .*make"),
        ({"name": "vae", "latent_dims": 3}, "unknown field model.latent_dims; the nearest known one is 'latent_dim'"),
        ({"name": "vae", "dtype": "float32"}, "model.dtype cannot be set"),
        ({"name": __name__, "depth": 0}, "depth must be positive"),
        ({"name": "vae", "beta": -1.0}, "model.beta is -1.0; give a number of at least 0"),
        ({"name": "vae", "likelihood_variance": "best"}, "model.likelihood_variance is 'best'; .*above 0 or 'optimal'"),
        ({"name": "ddpm", "prediction": "noise"}, "model.prediction is 'noise'; give 'eps' or 'x0' or 'v'"),
        ({"name": "ddpm", "timesteps": 2.5}, "model.timesteps is 2.5; give a whole number of at least 1"),
        (
            {"name": "ddpm", "network": {"name": "unit"}},
            "unknown network 'unit'; choose dit, mlp, refinenet, song_unet, unet, uvit",
        ),
        ({"name": "ddpm", "network": {"dropout": 1.5}}, r"model.network.dropout is 1.5; give a number in \[0, 1\)"),
        ({"name": "ddpm", "network": {"chanels": 3}}, "unknown field model.network.chanels; the nearest .* 'channels'"),
        ({"name": "ddpm", "network": {"name": "mlp"}}, "network mlp is for points"),
        ({"name": __name__, "objectives": (PARTS[0], PARTS[0])}, "two objectives of this model are called 'one'"),
        ({"name": __name__, "objectives": (PARTS[0], PARTS[1]._replace(optimizer="one"))}, "shares the optimizer of 'one'"),
        ({"name": __name__, "objectives": (PARTS[0]._replace(optimizer="none"),)}, "shares the optimizer of 'none'"),
    ],
)
def test_bad_model_settings_are_one_clear_line(model, message):
    with pytest.raises(InputError, match=message) as error:
        built(**model)
    assert "\n" not in str(error.value)


# --- all settings -------------------------------------------------------------------------------------------------------------


def test_resolved_settings_are_complete_and_stay_as_they_are():
    resolved = build.resolve({"model": {"name": "ddpm", "network": {"channel_multipliers": [1, 2]}}, "train": {"steps": 7}})
    assert resolved["train"] == plain()["train"] | {"steps": 7}
    assert resolved["model"]["network"]["channel_multipliers"] == (1, 2) and resolved["model"]["timesteps"] == 1000
    assert build.resolve(resolved) == resolved
    assert build.resolve(json.loads(json.dumps(resolved))) == resolved  # lists of JSON become tuples


@pytest.mark.parametrize(
    "section, fields, message",
    [
        ("train", {"step": 3}, "unknown field train.step; the nearest known one is 'steps'"),
        ("train", {"steps": 0}, "train.steps is 0; give a whole number of at least 1"),
        ("train", {"samples": 0}, "train.samples is 0"),
        ("eval", {"batch_size": 0}, "eval.batch_size is 0"),
        ("eval", {"reference": "val"}, "eval.reference is 'val'; give 'train' or 'test'"),
        ("optimizer", {"learning_rate": -0.001}, "optimizer.learning_rate is -0.001; give a number of at least 0"),
        ("optimizer", {"b1": 1.5}, "optimizer.b1 is 1.5"),
        ("optimizer", {"clip_norm": -1}, "optimizer.clip_norm is -1"),
        ("optimizer", {"warmup_steps": -5}, "optimizer.warmup_steps is -5"),
        ("optimizer", {"horizon": -5}, "optimizer.horizon is -5"),
        ("optimizer", {"critic": {"learning_rate": "fast"}}, "optimizer.critic.learning_rate is 'fast'; give a number"),
        ("optimizer", {"critic": {"momentum": 1.0}}, "unknown field optimizer.critic.momentum"),
        ("data", 3, "data is a section; give its fields, such as data.name"),
    ],
)
def test_bad_common_settings_are_one_clear_line(section, fields, message):
    with pytest.raises(InputError, match=message):
        build.resolve({"model": {"name": "vae"}, section: fields})


def test_an_objectives_own_settings_are_set_beside_the_common_ones():
    config = base(name="vqvae")
    own(config, "prior", learning_rate=1)
    own(config, "prior", ema_decay=0.5)
    assert build.resolve(config.to_dict())["optimizer"]["prior"] == {"learning_rate": 1.0, "ema_decay": 0.5}
    config.model.autoencoder_steps = 3  # which stays open for new fields
    with pytest.raises(AttributeError):
        config.train.stepz = 3


@pytest.mark.parametrize("key", ["model.network.channels", "model.network.name", "model.timesteps"])
def test_the_command_line_knows_fields_that_a_config_does_not_list(key):
    assert build.hint({"name": "ddpm"}, key) is not None


@pytest.mark.parametrize("key", ["model.network.width", "model.timestep", "model.timesteps.more", "model.network"])
def test_and_refuses_others(key):
    with pytest.raises(InputError, match="unknown field|is a section"):
        build.hint({"name": "ddpm"}, key)


# --- the configs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_preset_resolves(path):
    presets = inspect.getmodule(__import__(f"configs.{path.stem}", fromlist=["PRESETS"])).PRESETS
    assert {"cifar10", "digits", "tiny"} <= set(presets)
    for preset in presets:
        build.resolve(cli.load_config(path, preset))


def gaps_of_the_mean_image(restored):
    """How far the mean of samples is from that of digits, before training and after."""
    model, x = restored.model, jnp.asarray(load("digits").x_train / np.float32(127.5) - 1)
    keys = jax.random.split(jax.random.key(0), 64)
    fresh = model.init(jax.random.key(1), Batch(x[:64], jnp.zeros(64, int), keys))
    return [
        float(((model.sample(variables, keys).mean(0) - x.mean(0)) ** 2).mean()) for variables in (fresh, restored.variables)
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_tiny_preset_trains_and_learns(path, tmp_path):
    config = cli.load_config(path, "tiny")
    experiment.train(config, tmp_path / "run")
    entries = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    restored = restore(tmp_path / "run")
    assert restored.step == config["train"]["steps"]
    first = restored.model.objectives[0].name
    losses = [entry[f"{first}/loss"] for entry in entries if f"{first}/loss" in entry]
    assert len(losses) >= 4
    if first == "critic":  # of two players' losses neither need fall
        losses = gaps_of_the_mean_image(restored)
    assert np.mean(losses[-2:]) < losses[0] - 0.1 * abs(losses[0])
