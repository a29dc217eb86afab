"""What F(2x2, 3x3) convolutions (`gm_jax/nets/winograd.py`) save in sampling on a CPU: DDIM steps of the CIFAR-10 DDPM.

    python -m benchmarks.winograd [--batch=8] [--steps=4] [--rounds=7]

Both sides are the model's own sampler, once with XLA's convolutions alone; that they make the same images is checked.
"""

import argparse
from collections.abc import Iterator
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import OURS, Row, compare, main
from configs.ddpm import get_config
from gm_jax.build import build_model, resolve
from gm_jax.core import Batch
from gm_jax.nets import winograd
from gm_jax.system.devices import jit

SHAPE = (32, 32, 3)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    model = build_model(resolve(get_config().to_dict()) | {"precision": "float32"}, SHAPE, None)
    keys = jax.random.split(jax.random.key(0), options.batch)
    variables = jax.jit(model.init)(keys[0], Batch(jnp.zeros((1, *SHAPE)), None, keys[:1]))
    noise = np.random.default_rng(0)  # the initialisation's last layer is zero
    variables = jax.tree.map(lambda a: a + np.float32(0.02) * noise.standard_normal(a.shape, np.float32), variables)

    def compiled():
        sampler = jit(lambda variables, keys: model.sample(variables, keys, sampler="ddim", steps=options.steps))
        return partial(lambda run: np.asarray(run(variables, keys)), sampler.lower(variables, keys).compile())

    with mock.patch.object(winograd, "FEWEST_CHANNELS", 1 << 20):
        plain = compiled()
    fast = compiled()
    np.testing.assert_allclose(fast(), plain(), atol=1e-3)
    path, unit = f"DDIM sampling, batch {options.batch}, F(2x2, 3x3) convolutions", f"step of {options.batch} images"
    variants = {OURS: fast, "XLA's convolutions": plain}
    yield compare(path, unit, variants, rounds=options.rounds, per=options.steps, note="float32")


if __name__ == "__main__":
    main(rows, __doc__, batch=8, steps=4)
