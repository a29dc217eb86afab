"""What gm_jax asks of XLA on a CPU, against XLA's defaults: whole train steps of the ConvVAE and the DDPM.

    python -m benchmarks.cpu_options [--batch=128] [--ddpm_batch=8]

Both sides are the same program, compiled with `system.devices.jit` and with `jax.jit`; that they take the same step is checked.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import OURS, Row, compare, main
from gm_jax.build import build_model
from gm_jax.cli.config import load_config
from gm_jax.system import devices
from gm_jax.training import learning
from gm_jax.training.batches import seed_keys
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.start import first_batch


def rows(options: argparse.Namespace) -> Iterator[Row]:
    for name, batch in (("vae", options.batch), ("ddpm", options.ddpm_batch)):
        runs = {OURS: Run(name, batch, devices.jit), "XLA's defaults": Run(name, batch, jax.jit)}
        losses = [run.step() for run in runs.values()]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
        variants = {key: run.step for key, run in runs.items()}
        yield compare(f"compiler options: {name} train step, batch {batch}", "step", variants, rounds=options.rounds)


class Run:
    """A model in training on the same random batch; `jit` compiles its step."""

    def __init__(self, name: str, batch: int, jit: Callable[..., Any]):
        config = load_config(Path(f"configs/{name}.py"), "")
        model = build_model(config, (32, 32, 3), 10)
        optimizers, keys = build_optimizers(config, model), seed_keys(0)
        self.images = np.random.default_rng(0).integers(0, 256, (1, batch, 32, 32, 3), np.uint8)
        self.name = model.objectives[0].name
        example = first_batch(keys, self.images[0], None, config["data"]["flip"])
        self.state = jax.jit(lambda: learning.init_state(model, optimizers, keys.init, example))()
        dispatch = learning.make_dispatch(learning.make_train_step(model, optimizers, keys, flip=True))
        self.dispatch = jit(dispatch, static_argnums=4, donate_argnums=0)

    def step(self) -> float:
        """The loss before the step."""
        self.state, output, _ = self.dispatch(self.state, self.images, None, jnp.int32(1), (self.name,))
        return float(output.metrics[f"{self.name}/loss"][0])


if __name__ == "__main__":
    main(rows, __doc__, rounds=7, batch=128, ddpm_batch=8)
