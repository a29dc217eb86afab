"""What part of a train step's time the input takes: the feed alone, against the step alone.

    python -m benchmarks.input_pipeline [--batch=128] [--channels=64] [--rounds=5]

The `cifar10` preset of `configs/vae.py` on 50 000 random images, fed as in training: from arrays that live on the device, and
streamed from the host. The feed is timed over a whole epoch, whose order is drawn anew. On an accelerator it runs beside the
step: the ratio is the most that it can cost. Checks that both feeds give the batches that the order of the data names.
"""

import statistics
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from benchmarks.measure import Row, main
from configs.vae import get_config
from gm_jax.build import resolve
from gm_jax.data.dataset import Dataset
from gm_jax.data.feed import batch_rows
from gm_jax.training import learning
from gm_jax.training.run import compile_run, prepare
from gm_jax.training.start import first_batch
from gm_jax.training.watch import nobody

IMAGES = 50_000
DATA = {"resident on the device": 2**31, "streamed from the host": 0}  # name -> data.device_bytes


def rows(options):
    dataset = synthetic_data()
    for name, device_bytes in DATA.items():
        run = make_run(options, dataset, device_bytes)
        feed, dispatch, _ = compile_run(run)
        check(run, feed)
        seconds = measure(run, feed, dispatch, options.rounds)
        yield Row(f"input of a ConvVAE train step, batch {options.batch}, {name}", "step", *seconds, "the train step")


def synthetic_data():
    rng = np.random.default_rng(0)
    images, tests = (rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for n in (IMAGES, 256))
    return Dataset("synthetic", images, None, tests, None, None)


def make_run(options, dataset, device_bytes):
    config = resolve(get_config("cifar10").to_dict())
    config["data"]["device_bytes"] = device_bytes
    config["train"]["batch_size"] = options.batch
    config["model"]["network"]["channels"] = options.channels
    return prepare(config, Path("unused"), dataset, nobody)  # writes nothing


def check(run, feed):
    k, batch_size = run.steps_per_dispatch, run.config["train"]["batch_size"]
    for step in (0, IMAGES // batch_size - 1):  # the second runs into the next epoch
        order = batch_rows(run.config["seed"], IMAGES, batch_size, step, k)
        np.testing.assert_array_equal(feed(step, k)[0], run.dataset.x_train[order])


def measure(run, feed, dispatch, rounds):
    """Median seconds per step of the feed and of the train step, timed in turn."""
    k, active = run.steps_per_dispatch, tuple(objective.name for objective in run.model.objectives)
    epoch = IMAGES // run.config["train"]["batch_size"] // k * k
    train_state, batch = first_state(run), feed(0, k)
    times = []
    for i in range(rounds + 1):
        start = time.perf_counter()
        for step in range(i * epoch, (i + 1) * epoch, k):
            jax.block_until_ready(feed(step, k))
        middle = time.perf_counter()
        train_state, *_ = jax.block_until_ready(dispatch(train_state, *batch, k, active))
        times.append(((middle - start) / epoch, (time.perf_counter() - middle) / k))
    return map(statistics.median, zip(*times[1:], strict=True))  # the first round compiled


def first_state(run):
    """As training starts."""
    batch = first_batch(run.keys, run.dataset.x_train, None, run.config["data"]["flip"])
    init = jax.jit(partial(learning.init_state, run.eval_model, run.optimizers))
    return run.parallel.put_state(init(run.keys.init, batch))


if __name__ == "__main__":
    main(rows, __doc__, rounds=5, batch=128, channels=64)
