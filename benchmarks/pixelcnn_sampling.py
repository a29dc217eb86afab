"""The PixelCNN's cached sampler against the plain one, which passes over the whole grid for every code.

    python -m benchmarks.pixelcnn_sampling [--samples=64] [--rounds=3]

The prior of `configs/vqvae.py` on an 8x8 grid. Checks that both samplers draw the same codes.
"""

from functools import partial

import jax
import numpy as np

from benchmarks.measure import OURS, compare, main
from gm_jax.nets.pixelcnn import GatedPixelCNN, sample, sample_naive
from gm_jax.system.devices import jit

GRID = (8, 8)


def rows(options):
    net = GatedPixelCNN(num_codes=512, channels=128, num_layers=12)
    params = jax.jit(net.init)(jax.random.key(0), np.zeros((1, *GRID), np.int32))["params"]
    keys = jax.random.split(jax.random.key(1), options.samples)

    def sampler(function):
        compiled = jit(partial(function, net, grid=GRID))
        return lambda: np.asarray(compiled(params, keys))

    variants = {OURS: sampler(sample), "one pass over the grid per code": sampler(sample_naive)}
    ours, naive = (run() for run in variants.values())  # compiles
    np.testing.assert_array_equal(ours, naive)
    yield compare(f"PixelCNN sampling, 8x8 codes, batch {options.samples}", "batch", variants, rounds=options.rounds)


if __name__ == "__main__":
    main(rows, __doc__, rounds=3, samples=64)
