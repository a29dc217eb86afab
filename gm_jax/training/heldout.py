"""The losses on test images, with the same noise every time, so that the curve is smooth."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from gm_jax.core import Model
from gm_jax.training import learning
from gm_jax.training.batches import Keys, make_batch
from gm_jax.training.parallel import put_rows

HELDOUT_IMAGES = 2048  # at most


def make_heldout(
    model: Model, keys: Keys, images: np.ndarray, labels: np.ndarray | None, batch_size: int
) -> Callable[[learning.TrainState, tuple[str, ...]], dict[str, float]]:
    """`heldout(train_state, active) -> {"heldout/objective/term": mean}` over whole batches of the first test images.

    Raw (not averaged) parameters, to be compared with the training loss. `active` names the objectives to evaluate.
    """
    devices = jax.device_count()
    size = min(batch_size, len(images)) // devices * devices
    count = min(len(images), HELDOUT_IMAGES) // size if size else 0
    keys = keys._replace(noise=keys.heldout)

    @partial(jax.jit, static_argnames="active")
    def losses(params, state, step, index, images, labels, active):
        batch = make_batch(keys, 0, index, images, labels, flip=False)
        values = {}
        for objective in model.objectives:
            if objective.name in active:
                loss, (_, metrics) = objective.loss(params, state, keys.dropout, batch, step=step, train=False)
                values |= {f"heldout/{objective.name}/{term}": v for term, v in {"loss": loss, **metrics}.items()}
        return values

    def heldout(train_state, active):
        totals: dict[str, float] = {}
        for i in range(count):
            rows = slice(i * size, (i + 1) * size)
            batch = put_rows((np.arange(i * size, (i + 1) * size), images[rows], None if labels is None else labels[rows]))
            values = jax.device_get(losses(train_state.params, train_state.state, train_state.step, *batch, active=active))
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + float(value) / count
        return totals

    return heldout
