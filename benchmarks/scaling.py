"""What more devices cost: the same train step on 1, 2, 4 and 8 fake devices that share one CPU.

    python -m benchmarks.scaling [--batch=64] [--channels=16] [--steps=10] [--rounds=3]

A ConvVAE with a fixed global batch, under every value of `parallel`. The devices (`xla_force_host_platform_device_count`) have
no more cores together than one has: the ratio shows overhead, never a speed-up. Every count needs a process of its own; a round
is one of each in turn. Checks that the first losses are the same for every count and mode, to 5e-5.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import jax
import numpy as np

from benchmarks.input_pipeline import first_state
from benchmarks.measure import Row, main
from configs.vae import get_config
from gm_jax.build import resolve
from gm_jax.data.dataset import Dataset
from gm_jax.training.parallel import PARALLEL
from gm_jax.training.run import compile_run, prepare
from gm_jax.training.watch import nobody

COUNTS = (1, 2, 4, 8)
LOSSES = 5  # steps whose losses are compared
TOLERANCE = 5e-5  # relative


def rows(options):
    settings = {"batch": options.batch, "channels": options.channels, "steps": options.steps}
    with tempfile.TemporaryDirectory() as cache:  # compiles in the first round only
        rounds = [{count: in_process(settings, count, cache) for count in COUNTS} for _ in range(options.rounds)]
    expected = rounds[0][1]["jit"]["losses"]
    for result in (modes[mode] for counts in rounds for modes in counts.values() for mode in PARALLEL):
        np.testing.assert_allclose(result["losses"], expected, rtol=TOLERANCE)
    for mode in PARALLEL:
        seconds = {count: median(counts[count][mode]["seconds"] for counts in rounds) for count in COUNTS}
        for count in COUNTS[1:]:
            path = f"ConvVAE train step on {count} fake CPU devices, parallel={mode}, global batch {options.batch}"
            yield Row(path, "step", seconds[count], seconds[1], "1 device", "overhead: the devices share the same cores")


def in_process(settings, devices, cache):
    """Losses and seconds per step by mode, measured by this script in a process with so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": cache}
    command = [sys.executable, "-c", "from benchmarks import scaling; scaling.worker()", json.dumps(settings)]
    return json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout)


def worker():
    settings = json.loads(sys.argv[1])
    images = np.random.default_rng(0).integers(0, 256, (2048, 32, 32, 3), np.uint8)
    dataset = Dataset("synthetic", images, None, images[:256], None, None)
    print(json.dumps({mode: train(settings, dataset, mode) for mode in PARALLEL}))


def train(settings, dataset, mode):
    """The first losses, and the median seconds of the steps after them."""
    config = resolve(get_config("cifar10").to_dict()) | {"parallel": mode, "precision": "float32"}
    config["train"]["batch_size"], config["model"]["network"]["channels"] = settings["batch"], settings["channels"]
    run = prepare(config, Path("unused"), dataset, nobody)  # writes nothing
    feed, dispatch, _ = compile_run(run)
    train_state, losses, seconds = first_state(run), [], []
    for step in range(LOSSES + settings["steps"]):
        data, start = jax.block_until_ready(feed(step, 1)), time.perf_counter()
        train_state, output, _ = jax.block_until_ready(dispatch(train_state, *data, 1, ("vae",)))
        seconds.append(time.perf_counter() - start)
        losses.append(float(output.metrics["vae/loss"][0]))
    return {"losses": losses[:LOSSES], "seconds": median(seconds[LOSSES:])}


if __name__ == "__main__":
    main(rows, __doc__, rounds=3, batch=64, channels=16, steps=10)
