"""One device or eight, `jit`, `fsdp` or `pmap`, one process or two: the same run."""

import re
import signal
import socket

import numpy as np
import pytest
from PIL import Image

from gm_jax.images import to_uint8
from tests.training.support import (
    BATCHNORM,
    GAN,
    PATIENCE,
    SGD,
    assert_close,
    assert_identical,
    finish,
    leaves,
    metrics,
    settings,
    start_jobs,
    start_train,
    train,
    wait_for_step,
    write_points,
)

VAE = {"name": "vae", "latent_dim": 4, "network": {"name": "resnet", "channels": 8}}
RECORDER = {"name": "tests.training.recorder"}


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    return write_points(tmp_path_factory.mktemp("data"))


def on_eight_devices(folder, configs, starts=None):
    """Trains named configs in one process of eight devices, some from a copy of another's work directory."""
    jobs = [
        (config, folder / name, folder / starts[name] if name in (starts or {}) else None) for name, config in configs.items()
    ]
    return finish(start_jobs(folder / "jobs.json", jobs, devices=8))[0]


def read_png(path):
    return np.asarray(Image.open(path), np.int32)


def test_vae_takes_the_same_steps_and_draws_the_same_samples(tmp_path):
    def config(parallel):
        optimizer = SGD | {"learning_rate": 1e-5, "clip_norm": 1000.0}
        return settings(VAE, parallel=parallel, optimizer=optimizer, steps=6, log_every=3, heldout_every=6, sample_every=6)

    single = train(config("jit"), tmp_path / "single")
    modes = ("jit", "fsdp", "pmap")
    out = on_eight_devices(tmp_path, {mode: config(mode) for mode in modes})
    assert out.count("8 x cpu") == 3
    held = [float(found) for found in re.findall(r"memory per device: parameters ([\d.]+) kB", out)]  # in the order of the runs
    assert held[0] == held[2] and held[1] < held[0]  # a share of all but the small arrays, of which this model has many
    for name in modes:
        assert_close(leaves(tmp_path / name), single)
        for ours, theirs in zip(metrics(tmp_path / name), metrics(tmp_path / "single"), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)
        pictures = [read_png(tmp_path / run / "samples/step_00000006.png") for run in (name, "single")]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_statistics_that_couple_the_examples_span_all_devices(tmp_path, points):
    def config(parallel, accum):
        return settings(BATCHNORM, points, parallel=parallel, accum=accum, optimizer=SGD, steps=8)

    modes = {f"{parallel}{accum}": (parallel, accum) for parallel in ("jit", "pmap") for accum in (1, 2)}
    on_eight_devices(tmp_path, {name: config(*mode) for name, mode in modes.items()})
    single = {accum: train(config("jit", accum), tmp_path / f"single{accum}") for accum in (1, 2)}
    for name, (_, accum) in modes.items():
        assert_close(leaves(tmp_path / name), single[accum])
    # microbatches have statistics of their own, and so the two differ: that they agree would show a test without power
    assert np.abs(single[1][".state['var']"] - single[2][".state['var']"]).max() > 1e-4


def test_a_checkpoint_continues_on_other_devices_and_in_the_other_mode(tmp_path, points):
    def config(parallel, steps):
        return settings(GAN, points, parallel=parallel, steps=steps)

    out = on_eight_devices(tmp_path, {"jit": config("jit", 7), "pmap": config("pmap", 14)}, starts={"pmap": "jit"})
    assert out.count("8 x cpu") == 2 and "resuming at step 7" in out
    assert leaves(tmp_path / "pmap")[".step"] == 14
    assert_close(train(config("jit", 21), tmp_path / "pmap"), train(config("jit", 21), tmp_path / "single"))


def test_every_example_is_the_same_whatever_the_layout(tmp_path):
    """Pixels, flips and noise by index: the recorder keeps those of the last four batches."""

    def config(parallel="jit", accum=1, device_bytes=2**31):
        return settings(RECORDER, parallel=parallel, accum=accum, device_bytes=device_bytes, flip=True, steps=7)

    configs = {"jit": config(), "pmap": config("pmap")}
    configs |= {"jit2": config(accum=2, device_bytes=0), "pmap2": config("pmap", accum=2, device_bytes=0)}
    on_eight_devices(tmp_path, configs)
    single = train(config(), tmp_path / "single")
    draws, x = single[".state['draws']"], to_uint8(single[".state['x']"])
    assert len(np.unique(draws)) > 0.99 * draws.size  # no key is used twice
    for name in configs:
        other = leaves(tmp_path / name)
        order = np.arange(64)
        if name.endswith("2"):  # example i of a batch is in microbatch i % 2
            order = order.reshape(4, 8, 2).swapaxes(1, 2).reshape(-1)
        np.testing.assert_array_equal(other[".state['draws']"], draws[order], name)
        np.testing.assert_array_equal(to_uint8(other[".state['x']"]), x[order], name)


def test_data_may_stream(tmp_path, points):
    runs = [train(settings(GAN, points, device_bytes=size, steps=8), tmp_path / str(size)) for size in (0, 2**31)]
    assert_identical(*runs)


def both_processes(config, workdir):
    """`train.py` twice, as on two hosts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    return [start_train(config, workdir, *flags, f"--process_id={i}") for i in range(2)]


def finish_both(processes, code):
    """Their (stdout, stderr); if one fails the other would wait for it for long."""
    try:
        return [finish(process, code) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_two_processes_take_the_steps_of_one(tmp_path):
    """Stopped by a signal to one of them, continued by both with data on the host and the state sharded, then by one alone."""
    workdir = tmp_path / "run"

    def config(steps, device_bytes=2**31):
        often = {"log_every": 2, "heldout_every": 2, "sample_every": 4, "checkpoint_every": 5}
        return settings(BATCHNORM, optimizer=SGD, device_bytes=device_bytes, steps=steps, **often)

    processes = both_processes(config(10**6), workdir)
    try:
        wait_for_step(processes[0], workdir, 6)
        processes[1].send_signal(signal.SIGTERM)
    finally:
        outputs = finish_both(processes, 143)
    stopped = int(leaves(workdir)[".step"])
    assert stopped % 2 == 0 and all(f"SIGTERM: stopped at step {stopped}" in err for _, err in outputs)
    assert "2 x cpu" in outputs[0][0] and f"step {stopped}/" in outputs[0][0]

    finish_both(both_processes(config(stopped + 6, device_bytes=0) | {"parallel": "fsdp"}, workdir), 0)
    assert leaves(workdir)[".step"] == stopped + 6
    assert_close(train(config(stopped + 12), workdir), train(config(stopped + 12), tmp_path / "single"))
    for ours, theirs in zip(metrics(workdir), metrics(tmp_path / "single"), strict=True):  # each line is written once
        assert ours == pytest.approx(theirs, rel=1e-4)
    for step in (4, (stopped // 4 + 1) * 4):  # before the signal and after
        pictures = [read_png(run / "samples" / f"step_{step:08d}.png") for run in (workdir, tmp_path / "single")]
        assert np.abs(pictures[0] - pictures[1]).max() <= 1


def test_when_a_process_is_killed_the_other_ends_and_both_resume(tmp_path):
    """The survivor does not wait for ever; what the last complete checkpoint holds continues as if nothing had happened."""
    workdir = tmp_path / "run"

    def config(steps):
        return settings(BATCHNORM, optimizer=SGD, steps=steps, log_every=2, checkpoint_every=5)

    killed = both_processes(config(10**6), workdir)
    try:
        wait_for_step(killed[0], workdir, 12)
        killed[1].kill()
        _, err = killed[0].communicate(timeout=PATIENCE)
    finally:
        for process in killed:
            process.kill()
            process.communicate()
    assert killed[0].returncode != 0
    assert killed[0].returncode < 0 or "start the same command on all hosts to resume" in err  # JAX may be first, and abort
    saved = int(leaves(workdir)[".step"])
    assert saved % 5 == 0 and saved > 0
    finish_both(both_processes(config(saved + 7), workdir), 0)
    assert_close(leaves(workdir), train(config(saved + 7), tmp_path / "single"))
