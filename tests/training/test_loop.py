"""What a run does besides its steps: it logs, refuses bad numbers, and stops where a number is not finite."""

import json
import math
import struct

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from gm_jax import experiment
from gm_jax.cli import train_main
from gm_jax.errors import InputError
from gm_jax.training import loop
from gm_jax.training.writers import Writer, truncate_metrics
from tests.training.support import (
    BATCHNORM,
    DIVERGING,
    GAN,
    ROOT,
    assert_close,
    assert_identical,
    leaves,
    metrics,
    settings,
    train,
    write_points,
)


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return write_points(tmp_path_factory.mktemp("data"))


# --- several steps per dispatch -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [GAN, {"name": "tests.toys.toy_two_stage", "switch": 10}], ids=["gan", "two_stage"])
def test_several_steps_per_dispatch_are_the_same_steps(tmp_path, points, model):
    """With log entries, checkpoints, the generator's rhythm and the change of stages within what would be one dispatch."""

    def config(steps_per_dispatch):
        often = {"log_every": 7, "heldout_every": 9, "checkpoint_every": 5}
        return settings(model, points, steps=18, **often | {"steps_per_dispatch": steps_per_dispatch})

    one, four = (train(config(n), tmp_path / str(n)) for n in (1, 4))
    assert_close(one, four)
    for ours, theirs in zip(metrics(tmp_path / "1"), metrics(tmp_path / "4"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


# --- numbers that are not finite ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [7, 9])  # within a dispatch of four; just before a checkpoint
@pytest.mark.parametrize("steps_per_dispatch", [1, 4])
def test_a_run_that_diverges_stops_and_says_where(tmp_path, points, capsys, steps_per_dispatch, step):
    model = DIVERGING | {"diverge_at": step}
    config = settings(model, points, steps=20, checkpoint_every=5, steps_per_dispatch=steps_per_dispatch)
    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = ["--config", f"{ROOT}/tests/training/worker.py:{tmp_path}/config.json", "--workdir", f"{tmp_path}/run"]
    for _ in range(2):  # the second time resumed from the checkpoint
        assert train_main(flags) == 1
        error = capsys.readouterr().err
        assert error.startswith(f"error: the update after step {step}: non-finite: ") and error.count("\n") == 1
        assert "regression/penalty" in error and "regression/fit" not in error
        assert "['net']['scale']" in error and "['mean']" not in error
        assert "the checkpoint of step 5 is intact" in error
    config["train"]["steps"] = 5
    assert_identical(leaves(tmp_path / "run"), train(config, tmp_path / "short"))


def test_a_run_that_diverges_at_once_leaves_no_checkpoint(tmp_path, points):
    with pytest.raises(loop.NonFinite, match="step 0: .* no checkpoint had been written yet"):
        experiment.train(settings(DIVERGING | {"diverge_at": 0}, points, steps=9, checkpoint_every=1), tmp_path / "run")
    assert not (tmp_path / "run/checkpoints").exists()


# --- bad numbers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch_size": 30, "accum": 4}, "train.batch_size=30 does not split into 4 microbatches on 1 devices; .* such as 32"),
        ({"batch_size": 1, "accum": 4}, "use a multiple of 4, such as 4"),
        ({"batch_size": 0}, "train.batch_size is 0; give a whole number of at least 1"),
        ({"accum": 0}, "train.accum is 0"),
        ({"steps": 0}, "train.steps is 0"),
        ({"log_every": 0}, "train.log_every is 0"),
        ({"checkpoint_every": -1}, "train.checkpoint_every is -1"),
        ({"steps_per_dispatch": -2}, "train.steps_per_dispatch is -2"),
    ],
)
def test_bad_numbers_are_refused_before_anything_is_written(tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        experiment.train(settings(BATCHNORM, **{"steps": 4, **fields}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_unknown_parallel_mode_is_refused(tmp_path):
    with pytest.raises(InputError, match="parallel is 'xmap'; give 'jit' or 'fsdp' or 'pmap'"):
        experiment.train(settings(BATCHNORM, parallel="xmap", steps=4), tmp_path / "run")


# --- what is written ----------------------------------------------------------------------------------------------------------


def read_events(folder):
    """(step, tag) -> value of the scalars in all event files, in the order of writing; tags of images have the value None."""
    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:  # length, checksum, record, checksum
            (length,) = struct.unpack("<Q", content[:8])
            event, content = Event.FromString(content[12 : 12 + length]), content[16 + length :]
            for value in event.summary.value:
                found[event.step, value.tag] = value.simple_value if value.HasField("simple_value") else None
    return found


def test_what_a_run_writes(tmp_path, capsys):
    often = {"log_every": 4, "heldout_every": 5, "sample_every": 5, "checkpoint_every": 5}
    config = settings(GAN, steps=10, **often)
    experiment.train(config, tmp_path / "run")
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    training, heldout = ([line for line in lines if ("heldout/critic/loss" in line) is kind] for kind in (False, True))
    assert [line["step"] for line in training] == [4, 8, 10] and [line["step"] for line in heldout] == [5, 10]
    assert all(line["steps_per_second"] > 0 for line in training)
    assert ["generator/loss" in line for line in training] == [False, True, True]  # it updates at every fifth step only
    assert all(math.isfinite(value) for line in lines for value in line.values())

    events = read_events(tmp_path / "run/tensorboard")
    scalars = {(line["step"], key): value for line in lines for key, value in line.items() if key != "step"}
    assert {key: value for key, value in events.items() if value is not None} == pytest.approx(scalars, rel=1e-6)
    assert [key for key, value in events.items() if value is None] == [(5, "samples"), (10, "samples")]

    pictures = sorted((tmp_path / "run/samples").iterdir())
    assert [path.name for path in pictures] == ["step_00000005.png", "step_00000010.png"]
    assert not np.array_equal(*(np.asarray(Image.open(path)) for path in pictures))
    out = capsys.readouterr().out
    assert out.count(f"work directory: {tmp_path / 'run'}\n") == 2 and "starting" in out and out.index("done: 10 steps") > 0


def test_images_that_no_picture_can_show_train_all_the_same(tmp_path, points, capsys):
    assert train(settings(GAN, points, steps=2, sample_every=1), tmp_path / "run")[".step"] == 2
    assert "step 2: no samples (no picture shows channels of 2 numbers)" in capsys.readouterr().out
    assert not (tmp_path / "run/samples").exists()


def test_the_log_is_cut_back_to_the_restored_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    truncate_metrics(path, 5)
    assert not path.exists()
    lines = [
        '{"step": 2, "a": 1.0}',
        '{"step": 5, "a": 2.0}',
        '{"step": 5, "b": 3.0}',
        '{"step": 7, "a": 4.0}',
        '{"step": 8, "a',
    ]
    path.write_text("\n".join(lines))
    truncate_metrics(path, 5)
    assert path.read_text() == "\n".join(lines[:3]) + "\n"


def test_the_log_is_strict_json_also_for_numbers_that_json_lacks(tmp_path):
    writer = Writer(tmp_path, 0)
    writer.scalars(1, {"a": math.nan, "b": math.inf, "c": 1.5})
    writer.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"step": 1, "a": None, "b": None, "c": 1.5}


def test_a_resumed_run_keeps_the_events_of_the_first(tmp_path, points):
    config = settings(GAN, points, steps=5, log_every=5)
    experiment.train(config, tmp_path / "run")
    config["train"]["steps"] = 10
    experiment.train(config, tmp_path / "run")
    assert {step for step, tag in read_events(tmp_path / "run/tensorboard") if tag == "critic/loss"} == {5, 10}


def test_a_held_out_loss_that_cannot_be_computed_is_left_out(tmp_path, capsys):
    """MMD needs two images, the test split has one: the run ends, is saved, and may go on."""
    images = np.random.default_rng(0).integers(0, 256, (41, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "one.npz", x_train=images[:40], x_test=images[40:])
    model = {"name": "mmd_vae", "latent_dim": 2, "network": {"name": "mlp", "width": 8}}
    run = {"steps": 4, "batch_size": 8, "heldout_every": 2, "checkpoint_every": 2}
    assert train(settings(model, f"arrays:{tmp_path / 'one.npz'}", **run), tmp_path / "run")[".step"] == 4
    assert "step 2: no held-out loss of mmd_vae (the unbiased MMD needs at least 2 examples" in capsys.readouterr().out
