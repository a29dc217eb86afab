"""From settings to a model, from a work directory back to it, and from one run to another."""

import inspect
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.common import base
from gm_jax import cli, experiment
from gm_jax.core import Batch, Model, Variables
from gm_jax.errors import InputError
from gm_jax.images import to_float, to_uint8
from gm_jax.training import learning, loop, workdirs
from tests.toys import toy_batchnorm, toy_student, toy_two_stage

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "common"))
PRESETS = ("cifar10", "digits", "tiny")
FROM_CONTEXT = {"image_shape", "num_classes", "dtype", "axis_name"}  # given by data, precision and parallel
SHAPE = (1, 1, 2)
POINTS = to_uint8(np.random.default_rng(0).normal([0.4, -0.3], 0.2, (100, 1, 1, 2)).astype(np.float32))


def names(paths):
    return [path.stem for path in paths]


def settings(data="digits", optimizer=None, train=None, **model) -> dict:
    config = base().to_dict()
    config["data"]["name"] = data
    config["model"] = model
    config["optimizer"].update(optimizer or {})
    quiet = {"heldout_every": 0, "sample_every": 0, "checkpoint_every": 0, "steps_per_dispatch": 0}
    config["train"].update({**quiet, **(train or {})})
    return config


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# --- building a model ---------------------------------------------------------------------------------------------------------


def make(image_shape, num_classes=None, dtype=None, axis_name=None, *, widths=((1,), 2), depth: int = 1) -> Model:
    """The `make` of a model that only remembers what it was given."""
    if depth < 1:
        raise ValueError("depth must be positive")
    given = {"shape": image_shape, "classes": num_classes, "dtype": dtype, "axis": axis_name, "widths": widths}
    return Model(init=None, objectives=(), sample=lambda: given)


def build(image_shape=(8, 8, 1), num_classes=10, axis_name=None, precision="float32", **model):
    return experiment.build_model({"model": model, "precision": precision}, image_shape, num_classes, axis_name)


def test_make_gets_the_settings_and_what_it_names_of_the_context():
    given = build([8, 8, 1], 10, "batch", "bfloat16", name=__name__, widths=[[1, 2], 3]).sample()
    assert given == {"shape": (8, 8, 1), "classes": 10, "dtype": jnp.bfloat16, "axis": "batch", "widths": ((1, 2), 3)}
    assert build(name=__name__, precision="auto").sample()["dtype"] == jnp.float32  # on a CPU
    assert build(name="tests.toys.toy_gan").objectives[1].every == 5  # its make names image_shape only
    assert build(name="tests.toys.toy_gan", generator_every=3).objectives[1].every == 3
    assert [o.name for o in build(name="vae", channels=8).objectives] == ["vae"]


@pytest.mark.parametrize(
    "model, message",
    [
        ({"name": "vea"}, "unknown model 'vea'; known: .*vae"),
        ({}, "unknown model ''"),
        ({"name": "no.such.module"}, "model 'no.such.module' cannot be used .*make"),
        ({"name": "gm_jax.images"}, "model 'gm_jax.images' cannot be used .*make"),
        ({"name": "vae", "latent_dims": 3}, "no keyword 'latent_dims'; the nearest known one is 'latent_dim'"),
        ({"name": "vae", "dtype": "float32"}, "model.dtype cannot be set"),
        ({"name": __name__, "depth": 0}, "depth must be positive"),
        ({"name": "vae", "beta": -1.0}, "model 'vae': .*beta"),
    ],
)
def test_bad_model_settings_are_one_clear_line(model, message):
    with pytest.raises(InputError, match=message) as error:
        build(**model)
    one_line(error)


# --- the configs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=names(CONFIGS))
def test_configs_list_every_keyword_of_their_model(path):
    """What a config does not list, the command line cannot override."""
    for preset in PRESETS:
        config = cli.load_config(path, preset).to_dict()
        module = experiment.MODELS[config["model"].pop("name")]
        accepted = inspect.signature(__import__(module, fromlist=["make"]).make).parameters
        assert set(config["model"]) == set(accepted) - FROM_CONTEXT, preset


@pytest.mark.parametrize("path", CONFIGS, ids=names(CONFIGS))
def test_tiny_preset_trains_and_learns(path, tmp_path):
    config = cli.load_config(path, "tiny").to_dict()
    loop.train(config, tmp_path / "run")
    entries = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    restored = experiment.restore(tmp_path / "run")
    assert restored.step == config["train"]["steps"]
    key = f"{restored.model.objectives[0].name}/loss"
    losses = [entry[key] for entry in entries if key in entry]
    assert len(losses) >= 4
    assert np.mean(losses[-2:]) < losses[0] - 0.1 * abs(losses[0])


# --- averaged weights ---------------------------------------------------------------------------------------------------------


def test_recalibrated_statistics_are_the_moments_of_the_averaged_network():
    model, config = toy_batchnorm.make(SHAPE), settings(optimizer={"ema_decay": 0.9, "learning_rate": 0.03})
    optimizers, keys = experiment.build_optimizers(config, model), learning.seed_keys(0)
    step = learning.make_train_step(model, optimizers, keys)

    def run(images):
        batch = learning.make_batch(keys, 0, jnp.arange(len(images)), images, None, False)
        state = learning.init_state(model, optimizers, keys.init, batch)
        return jax.lax.fori_loop(0, 30, lambda _, s: step(s, images, None, ("denoise",))[0], state)

    state = jax.jit(run)(POINTS)
    raw = Variables(state.params, state.state)
    averaged = Variables(learning.averaged_params(state, model.objectives), state.state)
    noise = jax.jit(jax.vmap(lambda key: jax.random.normal(key, (2,))))(learning.example_keys(keys.noise, 0, jnp.arange(100)))
    noisy = to_float(POINTS).reshape(-1, 2) + 0.5 * np.asarray(noise)

    def moments(variables):
        dense = variables.params["into"]["params"]
        hidden = noisy @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        return {"mean": hidden.mean(0), "var": hidden.var(0)}

    def distance(a, b):
        return max(np.abs(np.subtract(a[key], b[key])).max() for key in ("mean", "var"))

    got = experiment.recalibrated(model, averaged, POINTS)
    assert got.params is averaged.params
    assert distance(got.state, moments(averaged)) < 1e-5
    assert distance(got.state, moments(raw)) > 0.01 and distance(got.state, raw.state) > 0.01
    part = experiment.recalibrated(model, averaged, POINTS, n=50)
    assert distance(part.state, got.state) > 1e-3
    without = Model(model.init, model.objectives, model.sample)
    assert experiment.recalibrated(without, averaged, POINTS) is averaged


# --- parts of another run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A trained two-stage model with an EMA: its folder, the data set's name, raw and averaged parameters."""
    folder = tmp_path_factory.mktemp("source")
    np.savez(folder / "points.npz", x_train=POINTS[:80], x_test=POINTS[80:])
    data = f"arrays:{folder / 'points.npz'}"
    train = {"steps": 6, "batch_size": 16}
    optimizer = {"ema_decay": 0.9, "learning_rate": 0.1}
    loop.train(settings(data, optimizer, train, name="tests.toys.toy_two_stage", switch=3), folder / "run")
    return folder, data, {weights: experiment.load(folder / "run", weights)[1].params for weights in ("raw", "ema")}


def fresh(model):
    return model.init(jax.random.key(0), Batch(to_float(POINTS[:4]), None, None))


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_grafts_are_recorded_and_resuming_needs_no_source(source, tmp_path):
    folder, data, params = source
    shutil.copytree(folder / "run", tmp_path / "teacher")
    targets = f"state/teacher={tmp_path}/teacher:ema, params/student={tmp_path}/teacher:raw/autoencoder"
    train = {"steps": 3, "batch_size": 16, "init_from": targets}
    still = {"learning_rate": 0.0, "ema_decay": 0.9}
    loop.train(settings(data, still, train, name="tests.toys.toy_student"), tmp_path / "run")

    _, variables = experiment.load(tmp_path / "run", "raw")
    assert_same(variables.state["teacher"], params["ema"])
    assert_same(variables.params["student"], params["raw"]["autoencoder"])
    _, averaged = experiment.load(tmp_path / "run", "ema")  # the average starts from the graft, not from the fresh weights
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), averaged.params, variables.params)
    with pytest.raises(AssertionError):
        assert_same(params["ema"], params["raw"])

    origins = json.loads((tmp_path / "run/config.json").read_text())["init_from"]
    assert set(origins) == {"state/teacher", "params/student"}
    teacher, student = origins["state/teacher"], origins["params/student"]
    assert teacher["source"] == f"{tmp_path}/teacher:ema" and teacher["step"] == student["step"] == 6
    assert teacher["weights"] == "ema" and student["weights"] == "raw"
    assert teacher["digest"] == workdirs.digest(params["ema"])
    assert student["digest"] == workdirs.digest(params["raw"]["autoencoder"]) != teacher["digest"]
    assert teacher["config"] == json.loads((tmp_path / "teacher/config.json").read_text())["config"]

    shutil.rmtree(tmp_path / "teacher")
    loop.train(settings(data, still, {**train, "steps": 5}, name="tests.toys.toy_student"), tmp_path / "run")
    restored = experiment.restore(tmp_path / "run")
    assert restored.step == 5
    assert_same(restored.variables.state["teacher"], params["ema"])
    assert json.loads((tmp_path / "run/config.json").read_text())["init_from"] == origins


@pytest.mark.parametrize(
    "target, part, message",
    [
        ("teacher", ":ema", "target 'teacher' of train.init_from must begin with params or state"),
        ("state/tutor", ":ema", "'state/tutor' of train.init_from: there is no 'tutor'; known: teacher"),
        ("params/student/encoder/kernel", ":ema", "there is no 'kernel'; known: nothing"),
        ("state/teacher", ":best", "unknown weights 'best'; choose ema or raw"),
        ("state/teacher", "", "does not say which weights; write WORKDIR:ema or WORKDIR:raw"),
        ("state/teacher", "s:ema", "holds no run"),
        ("state/teacher/autoencoder", ":raw/auto", "there is no 'auto'; known: autoencoder, prior"),
        ("state/teacher", ":ema/autoencoder", "and its source differ, first at .*; use a source of the same network"),
        ("params/student/encoder", ":ema/autoencoder/bias", "'params/student/encoder' .* differ, first at the top"),
    ],
)
def test_bad_grafts_are_one_clear_line(source, target, part, message):
    with pytest.raises(InputError, match=message) as error:
        experiment.graft(fresh(toy_student.make(SHAPE)), {target: f"{source[0]}/run{part}"})
    one_line(error)


def test_a_bad_graft_leaves_no_work_directory(source, tmp_path):
    folder, data, _ = source
    train = {"steps": 3, "batch_size": 16, "init_from": f"state/teacher={folder}/run:ema/prior"}
    with pytest.raises(InputError, match="differ"):
        loop.train(settings(data, train=train, name="tests.toys.toy_student"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_graft_shapes_must_agree(source):
    wider = fresh(toy_two_stage.make(SHAPE, latent=3))
    with pytest.raises(InputError, match="differ, first at .*autoencoder.*decoder") as error:
        experiment.graft(wider, {"params": f"{source[0]}/run:ema"})
    one_line(error)


def test_init_from_is_written_as_a_dict_or_as_text():
    parsed = {"state/teacher": "runs/a:ema", "params/encoder": "runs/b:raw/encoder"}
    assert experiment.parse_init_from(parsed) == parsed
    assert experiment.parse_init_from("state/teacher=runs/a:ema,params/encoder=runs/b:raw/encoder") == parsed
    assert experiment.parse_init_from("") == {}
    for bad in ("runs/a:ema", "=runs/a:ema", "state/teacher="):
        with pytest.raises(InputError, match="is not of the form TARGET=WORKDIR:WEIGHTS"):
            experiment.parse_init_from(bad)


# --- reading a run ------------------------------------------------------------------------------------------------------------


def test_restored_weights_say_what_they_are(source, tmp_path):
    folder, data, params = source
    assert [experiment.restore(folder / "run", weights).weights for weights in ("ema", "raw")] == ["ema", "raw"]
    train = {"steps": 1, "batch_size": 16}
    loop.train(settings(data, train=train, name="tests.toys.toy_two_stage"), tmp_path / "run")
    assert experiment.restore(tmp_path / "run", "ema").weights == "raw"  # it was trained without an EMA
    with pytest.raises(InputError, match="unknown weights 'best'; choose ema or raw"):
        experiment.restore(folder / "run", "best")
    with pytest.raises(InputError, match="holds no run"):
        experiment.load(tmp_path)
