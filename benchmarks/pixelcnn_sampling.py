"""What the PixelCNN's cached sampler saves: against one pass over the whole grid for every code, the same samples.

    python benchmarks/pixelcnn_sampling.py

The prior of `configs/vqvae.py` on an 8x8 grid, 64 samples. Prints the ratio of the median seconds, interleaved, in one process,
after checking that both samplers draw the same codes.
"""

import statistics
import time
from functools import partial

import jax
import numpy as np

from gm_jax.devices import jit
from gm_jax.nets.pixelcnn import GatedPixelCNN, sample, sample_naive

GRID, SAMPLES, ROUNDS = (8, 8), 64, 3


def main() -> None:
    net = GatedPixelCNN(num_codes=512, channels=128, num_layers=12)
    params = jax.jit(net.init)(jax.random.key(0), np.zeros((1, *GRID), np.int32))["params"]
    keys = jax.random.split(jax.random.key(1), SAMPLES)
    samplers = {name: jit(partial(fn, net, grid=GRID)) for name, fn in [("naive", sample_naive), ("cached", sample)]}
    codes = {name: np.asarray(fn(params, keys)) for name, fn in samplers.items()}  # compiles
    np.testing.assert_array_equal(codes["cached"], codes["naive"])

    seconds = {name: [] for name in samplers}
    for _ in range(ROUNDS):
        for name, fn in samplers.items():
            start = time.perf_counter()
            jax.block_until_ready(fn(params, keys))
            seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}: {SAMPLES} grids of {GRID[0]}x{GRID[1]} codes")
    for name, median in medians.items():
        print(f"{name:8s} {median:8.3f} s")
    print(f"{medians['naive'] / medians['cached']:.1f} x")


if __name__ == "__main__":
    main()
