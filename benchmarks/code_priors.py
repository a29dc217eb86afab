"""The cached samplers of the priors over codes against the plain one, which passes over the whole grid for every code.

    python -m benchmarks.code_priors [--samples=64] [--rounds=3]

Priors for the 8x8 grid of 512 codes of `configs/vqvae.py`: its gated PixelCNN, and a Transformer. Checks that both samplers
draw the same codes.
"""

from functools import partial

import jax
import numpy as np

from benchmarks.measure import OURS, compare, main
from gm_jax.nets.code_priors import code_prior, sample_naive
from gm_jax.system.devices import jit

GRID, CODES = (8, 8), 512
PRIORS = {"PixelCNN": {"name": "pixelcnn"}, "Transformer": {"name": "transformer"}}


def rows(options):
    for name, settings in PRIORS.items():
        prior = code_prior(settings, GRID, CODES)
        params, keys = jax.jit(prior.init)(jax.random.key(0)), jax.random.split(jax.random.key(1), options.samples)

        def sampler(function, params=params, keys=keys):
            compiled = jit(function)
            return lambda: np.asarray(compiled(params, keys))

        variants = {OURS: sampler(prior.sample), "one pass over the grid per code": sampler(partial(sample_naive, prior))}
        ours, naive = (run() for run in variants.values())  # compiles
        np.testing.assert_array_equal(ours, naive)
        yield compare(f"{name} sampling, 8x8 codes, batch {options.samples}", "batch", variants, rounds=options.rounds)


if __name__ == "__main__":
    main(rows, __doc__, rounds=3, samples=64)
