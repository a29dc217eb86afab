"""From a work directory back to a model, and from one run to another."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import experiment
from gm_jax.cli.presets import base
from gm_jax.core import Batch, Model, Variables
from gm_jax.errors import InputError
from gm_jax.images import to_float, to_uint8
from gm_jax.system import provenance
from gm_jax.training import learning
from gm_jax.training.batches import example_keys, make_batch, seed_keys
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.restore import graft, load, parse_init_from, recalibrated, restore
from tests.toys import toy_batchnorm, toy_student, toy_two_stage

SHAPE = (1, 1, 2)
POINTS = to_uint8(np.random.default_rng(0).normal([0.4, -0.3], 0.2, (100, 1, 1, 2)).astype(np.float32))


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


# --- averaged weights ---------------------------------------------------------------------------------------------------------


def test_recalibrated_statistics_are_the_moments_of_the_averaged_network():
    model, config = toy_batchnorm.make(SHAPE), settings(optimizer={"ema_decay": 0.9, "learning_rate": 0.03})
    optimizers, keys = build_optimizers(config, model), seed_keys(0)
    step = learning.make_train_step(model, optimizers, keys)

    def run(images):
        batch = make_batch(keys, 0, jnp.arange(len(images)), images, None, False)
        state = learning.init_state(model, optimizers, keys.init, batch)
        return jax.lax.fori_loop(0, 30, lambda _, s: step(s, images, None, ("denoise",))[0], state)

    state = jax.jit(run)(POINTS)
    raw = Variables(state.params, state.state)
    averaged = Variables(learning.averaged_params(state, model.objectives), state.state)
    noise = jax.jit(jax.vmap(lambda key: jax.random.normal(key, (2,))))(example_keys(keys.noise, 0, jnp.arange(100)))
    noisy = to_float(POINTS).reshape(-1, 2) + 0.5 * np.asarray(noise)

    def moments(variables):
        dense = variables.params["into"]["params"]
        hidden = noisy @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        return {"mean": hidden.mean(0), "var": hidden.var(0)}

    def distance(a, b):
        return max(np.abs(np.subtract(a[key], b[key])).max() for key in ("mean", "var"))

    got = recalibrated(model, averaged, POINTS, None)
    assert got.params is averaged.params
    assert distance(got.state, moments(averaged)) < 1e-5
    assert distance(got.state, moments(raw)) > 0.01 and distance(got.state, raw.state) > 0.01
    part = recalibrated(model, averaged, POINTS, None, n=50)
    assert distance(part.state, got.state) > 1e-3
    without = Model(model.init, model.objectives, model.sample)
    assert recalibrated(without, averaged, POINTS, None) is averaged


# --- parts of another run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A trained two-stage model with an EMA: its folder, the data set's name, raw and averaged parameters."""
    folder = tmp_path_factory.mktemp("source")
    np.savez(folder / "points.npz", x_train=POINTS[:80], x_test=POINTS[80:])
    data = f"arrays:{folder / 'points.npz'}"
    train = {"steps": 6, "batch_size": 16}
    optimizer = {"ema_decay": 0.9, "learning_rate": 0.1}
    experiment.train(settings(data, optimizer, train, name="tests.toys.toy_two_stage", switch=3), folder / "run")
    return folder, data, {weights: load(folder / "run", weights)[1].params for weights in ("raw", "ema")}


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
    experiment.train(settings(data, still, train, name="tests.toys.toy_student"), tmp_path / "run")

    _, variables = load(tmp_path / "run", "raw")
    assert_same(variables.state["teacher"], params["ema"])
    assert_same(variables.params["student"], params["raw"]["autoencoder"])
    _, averaged = load(tmp_path / "run", "ema")  # the average starts from the graft, not from the fresh weights
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), averaged.params, variables.params)
    with pytest.raises(AssertionError):
        assert_same(params["ema"], params["raw"])

    origins = json.loads((tmp_path / "run/config.json").read_text())["init_from"]
    assert set(origins) == {"state/teacher", "params/student"}
    teacher, student = origins["state/teacher"], origins["params/student"]
    assert teacher["source"] == f"{tmp_path}/teacher:ema" and teacher["step"] == student["step"] == 6
    assert teacher["weights"] == "ema" and student["weights"] == "raw"
    assert teacher["digest"] == provenance.digest(params["ema"])
    assert student["digest"] == provenance.digest(params["raw"]["autoencoder"]) != teacher["digest"]
    assert teacher["config"] == json.loads((tmp_path / "teacher/config.json").read_text())["config"]

    shutil.rmtree(tmp_path / "teacher")
    experiment.train(settings(data, still, {**train, "steps": 5}, name="tests.toys.toy_student"), tmp_path / "run")
    restored = restore(tmp_path / "run")
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
        graft(fresh(toy_student.make(SHAPE)), {target: f"{source[0]}/run{part}"})
    one_line(error)


def test_a_bad_graft_leaves_no_work_directory(source, tmp_path):
    folder, data, _ = source
    train = {"steps": 3, "batch_size": 16, "init_from": f"state/teacher={folder}/run:ema/prior"}
    with pytest.raises(InputError, match="differ"):
        experiment.train(settings(data, train=train, name="tests.toys.toy_student"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_graft_shapes_must_agree(source):
    wider = fresh(toy_two_stage.make(SHAPE, latent=3))
    with pytest.raises(InputError, match="differ, first at .*autoencoder.*decoder") as error:
        graft(wider, {"params": f"{source[0]}/run:ema"})
    one_line(error)


def test_a_part_with_settings_of_its_own_must_come_from_a_model_of_just_those(source):
    """Equal shapes may hide another function."""
    student = fresh(toy_student.make(SHAPE))
    spec, settings = {"state/teacher": f"{source[0]}/run:ema"}, {"name": "tests.toys.toy_two_stage", "latent": 2, "switch": 3}
    graft(student, spec, {"name": "tests.toys.toy_student", "teacher": settings})
    with pytest.raises(InputError, match="its switch is 7 here and 3 in the source"):
        graft(student, spec, {"name": "tests.toys.toy_student", "teacher": settings | {"switch": 7}})


def test_init_from_is_written_as_a_dict_or_as_text():
    parsed = {"state/teacher": "runs/a:ema", "params/encoder": "runs/b:raw/encoder"}
    assert parse_init_from(parsed) == parsed
    assert parse_init_from("state/teacher=runs/a:ema,params/encoder=runs/b:raw/encoder") == parsed
    assert parse_init_from("") == {}
    for bad in ("runs/a:ema", "=runs/a:ema", "state/teacher="):
        with pytest.raises(InputError, match="is not of the form TARGET=WORKDIR:WEIGHTS"):
            parse_init_from(bad)


# --- reading a run ------------------------------------------------------------------------------------------------------------


def test_restored_weights_say_what_they_are(source, tmp_path):
    folder, data, params = source
    assert [restore(folder / "run", weights).weights for weights in ("ema", "raw")] == ["ema", "raw"]
    train = {"steps": 1, "batch_size": 16}
    experiment.train(settings(data, train=train, name="tests.toys.toy_two_stage"), tmp_path / "run")
    assert restore(tmp_path / "run", "ema").weights == "raw"  # it was trained without an EMA
    with pytest.raises(InputError, match="unknown weights 'best'; choose ema or raw"):
        restore(folder / "run", "best")
    with pytest.raises(InputError, match="holds no run"):
        load(tmp_path)
