"""A run that was killed or stopped, and then continued, ends in the very state and the very log of one that never was."""

import shutil
import signal

import pytest

from tests.training.support import (
    GAN,
    assert_identical,
    finish,
    leaves,
    metrics,
    settings,
    start_train,
    train,
    wait_for_step,
    write_points,
)

TWO_STAGE = {"name": "tests.toys.toy_two_stage", "switch": 60}
DDPM = {
    "name": "ddpm",
    "timesteps": 30,
    "class_conditional": True,
    "network": {
        "name": "unet",
        "channels": 8,
        "channel_multipliers": [1],
        "num_res_blocks": 1,
        "attention_resolutions": [],
        "dropout": 0.2,
    },
}
# The interrupted process has no end of its own and is slowed by many checkpoints; reruns may change both fields.
ENDLESS = {"steps": 10**6, "checkpoint_every": 5}


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return write_points(tmp_path_factory.mktemp("data"))


def interrupt(config, workdir, number, step) -> str:
    """Sends a signal when `step` is logged, at no special moment; what the process wrote to stderr."""
    process = start_train({**config, "train": config["train"] | ENDLESS}, workdir)
    wait_for_step(process, workdir, step)
    process.send_signal(number)
    return finish(process, -9 if number == signal.SIGKILL else 128 + number)[1]


def saved_step(workdir) -> int:
    return max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal())


def check_resumed(config, workdir):
    """Continues the run for some steps, and compares it with one that nothing happened to."""
    config["train"]["steps"] = saved_step(workdir) + 22
    resumed, unbroken = train(config, workdir), train(config, workdir.with_name("unbroken"))
    assert_identical(resumed, unbroken)
    assert resumed[".step"] == config["train"]["steps"]
    assert metrics(workdir) == metrics(workdir.with_name("unbroken"))
    logged = [line["step"] for line in metrics(workdir) if not any(key.startswith("heldout") for key in line)]
    assert logged == list(range(1, config["train"]["steps"] + 1))


def test_ddpm_killed_in_mid_flight(tmp_path, capsys):
    config = settings(DDPM, flip=True, log_every=1, heldout_every=10)
    interrupt(config, tmp_path / "run", signal.SIGKILL, 8)
    check_resumed(config, tmp_path / "run")
    assert "resuming at step " in capsys.readouterr().out


def test_two_stages_killed_in_both(tmp_path, points):
    config = settings(TWO_STAGE, points, log_every=1)
    interrupt(config, tmp_path / "run", signal.SIGKILL, 13)
    assert saved_step(tmp_path / "run") < 60
    interrupt(config, tmp_path / "run", signal.SIGKILL, 73)
    assert saved_step(tmp_path / "run") > 60
    check_resumed(config, tmp_path / "run")


def test_gan_killed_then_stopped_then_interrupted(tmp_path, points):
    config = settings(GAN, points, log_every=1)
    interrupt(config, tmp_path / "run", signal.SIGKILL, 8)
    for number in (signal.SIGTERM, signal.SIGINT):
        message = interrupt(config, tmp_path / "run", number, saved_step(tmp_path / "run") + 8)
        step = int(leaves(tmp_path / "run")[".step"])
        assert message == f"error: {number.name}: stopped at step {step}, which is saved; the same command resumes\n"
        assert metrics(tmp_path / "run")[-1]["step"] == step
    check_resumed(config, tmp_path / "run")


def test_what_is_saved_is_the_state_of_that_step(tmp_path, points):
    """Saving goes on in the background while the next steps reuse the memory of the state that is being saved."""
    train(settings(GAN, points, steps=21, checkpoint_every=3, keep_every=9), tmp_path / "long")
    for step in (9, 18):
        short = train(settings(GAN, points, steps=step), tmp_path / f"short{step}")
        shutil.rmtree(tmp_path / f"short{step}/checkpoints")
        shutil.copytree(tmp_path / f"long/checkpoints/{step}", tmp_path / f"short{step}/checkpoints/{step}")
        assert_identical(leaves(tmp_path / f"short{step}"), short)


def test_what_a_killed_run_logged_beyond_its_checkpoint_goes(tmp_path, points):
    config = settings(GAN, points, steps=20, log_every=5, checkpoint_every=10)
    train(config, tmp_path / "run")
    log = tmp_path / "run/metrics.jsonl"
    unbroken, lines = metrics(tmp_path / "run"), log.read_text().splitlines(keepends=True)
    shutil.rmtree(tmp_path / "run/checkpoints/20")
    log.write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
    train(config, tmp_path / "run")
    assert metrics(tmp_path / "run") == unbroken and [line["step"] for line in unbroken] == [5, 10, 15, 20]
