"""Small runs for the tests of the loop: their settings, their data, processes of their own, and what they left behind."""

import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import numpy as np

from gm_jax import experiment
from gm_jax.build import build_model, resolve
from gm_jax.cli.presets import base
from gm_jax.training import workdirs
from gm_jax.training.checkpoints import Checkpoints
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.start import abstract_state

ROOT = pathlib.Path(__file__).parents[2]
PATIENCE = 300  # seconds that a process may take on a busy machine
GAN = {"name": "tests.toys.toy_gan"}
BATCHNORM = {"name": "tests.toys.toy_batchnorm"}
DIVERGING = {"name": "tests.toys.toy_diverging"}
SGD = {"name": "sgd", "b1": 0.5, "learning_rate": 0.05}  # unlike Adam's, its steps show a gradient of the wrong scale
QUIET = {"log_every": 10**6, "heldout_every": 0, "sample_every": 0, "checkpoint_every": 0, "steps_per_dispatch": 1}


def settings(model, data="digits", *, parallel="jit", device_bytes=2**31, optimizer=None, flip=False, **train) -> dict:
    """The settings of a run that does nothing but train, unless `train` says more."""
    config = base().to_dict()
    config |= {"model": dict(model), "parallel": parallel, "precision": "float32"}
    config["data"] |= {"name": data, "device_bytes": device_bytes, "flip": flip}
    config["optimizer"] |= {"ema_decay": 0.9, "learning_rate": 1e-3, **(optimizer or {})}
    config["train"] |= {**QUIET, "batch_size": 16, "samples": 4, **train}
    return config


def write_points(folder: pathlib.Path) -> str:
    """The name of a data set: 100 points of the plane, as images of one pixel. A batch of 16 does not divide an epoch."""
    points = np.random.default_rng(0).normal(127, 40, (140, 1, 1, 2)).clip(0, 255).astype(np.uint8)
    np.savez(folder / "points.npz", x_train=points[:100], x_test=points[100:])
    return f"arrays:{folder / 'points.npz'}"


def train(config: dict, workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Trains in this process; the leaves of the last checkpoint."""
    experiment.train(config, workdir)
    return leaves(workdir)


def leaves(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Every leaf of the newest checkpoint, by its path."""
    record = workdirs.read(workdir)
    config = resolve(record.config)
    model = build_model(config, record.image_shape, record.num_classes)
    optimizers = build_optimizers(config, model)
    abstract = abstract_state(model, optimizers, record.image_shape, record.num_classes)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(abstract, jax.sharding.SingleDeviceSharding(jax.devices()[0]), repair=False)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def assert_identical(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    assert [path for path in a if a[path].tobytes() != b[path].tobytes()] == []


def assert_close(a: dict[str, np.ndarray], b: dict[str, np.ndarray], rtol: float = 2e-5, atol: float = 2e-6) -> None:
    assert a.keys() == b.keys()
    for path in a:
        scale = max(1.0, float(np.abs(b[path]).max(initial=0)))  # sums over the batch cancel in some entries of large arrays
        np.testing.assert_allclose(a[path], b[path], rtol=rtol, atol=atol * scale, err_msg=path)


def metrics(workdir: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl without the speeds, which differ from run to run."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith(("_per_second", "mfu"))} for line in lines]


def listing(folder: pathlib.Path) -> dict[pathlib.Path, tuple[int, int]]:
    """Size and time of change of everything below a folder."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in [folder, *folder.rglob("*")]}


# --- processes ----------------------------------------------------------------------------------------------------------------


def start(words: list[str], devices: int = 1) -> subprocess.Popen:
    """`python WORDS` from the root, on so many CPU devices; several compile faster code only roughly, which is faster here."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0" if devices > 1 else ""
    env = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.05"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, *words], cwd=ROOT, env=env, stdout=pipe, stderr=pipe, text=True)


def start_train(config: dict, workdir: pathlib.Path, *flags: str) -> subprocess.Popen:
    """`python train.py` on this config."""
    path = workdir.with_suffix(".json")
    path.write_text(json.dumps(config))
    return start(["train.py", "--config", f"tests/training/worker.py:{path}", "--workdir", str(workdir), *flags])


def start_jobs(
    path: pathlib.Path, jobs: list[tuple[dict, pathlib.Path, pathlib.Path | None]], devices: int
) -> subprocess.Popen:
    """Trains several (config, workdir, start or None) in one process."""
    content = [{"config": c, "workdir": str(w), "start": str(s) if s else None} for c, w, s in jobs]
    path.write_text(json.dumps(content))
    return start(["tests/training/worker.py", str(path)], devices)


def finish(process: subprocess.Popen, code: int = 0) -> tuple[str, str]:
    """Its stdout and stderr, once it has left with `code`."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert process.returncode == code, out + err
    return out, err


def wait_for_step(process: subprocess.Popen, workdir: pathlib.Path, step: int) -> None:
    """Until the run has logged `step` and some checkpoint is complete."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        path = workdir / "metrics.jsonl"
        lines = path.read_text().splitlines()[:-1] if path.exists() else []  # the last line may be half-written
        if lines and json.loads(lines[-1])["step"] >= step and any((workdir / "checkpoints").glob("[0-9]*[0-9]")):
            return
        time.sleep(0.005)
    process.kill()
    raise AssertionError("the run ended, or hung, before that step: " + "".join(process.communicate()))
