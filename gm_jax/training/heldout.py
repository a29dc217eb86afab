"""The losses on test data, with the same noise every time, so that the curve is smooth."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from gm_jax.core import Model
from gm_jax.data.dataset import subset
from gm_jax.training import learning
from gm_jax.training.batches import Keys, make_batch
from gm_jax.training.parallel import put_rows

HELDOUT = 2048  # examples at most


def make_heldout(
    model: Model, keys: Keys, data: np.ndarray, labels: np.ndarray | None, batch_size: int
) -> Callable[[learning.TrainState, tuple[str, ...]], dict[str, float]]:
    """`heldout(train_state, active) -> {"heldout/objective/term": mean}` over whole batches of 2048 test examples at most.

    They are chosen at random, but always the same. Raw (not averaged) parameters, to be compared with the training loss.
    `active` names the objectives to evaluate. `heldout` raises InputError for a loss that cannot be had of so few examples.
    """
    devices = jax.device_count()
    chosen = subset(len(data), HELDOUT)
    size = min(batch_size, len(data)) // devices * devices
    count = len(chosen) // size if size else 0
    keys = keys._replace(noise=keys.heldout)

    @partial(jax.jit, static_argnames="active")
    def losses(params, state, step, index, data, labels, active):
        batch = make_batch(keys, 0, index, data, labels, flip=False)
        values = {}
        for objective in model.objectives:
            if objective.name in active:
                loss, (_, metrics) = objective.loss(params, state, keys.dropout, batch, step=step, train=False)
                values |= {f"heldout/{objective.name}/{term}": v for term, v in {"loss": loss, **metrics}.items()}
        return values

    def heldout(train_state, active):
        totals: dict[str, float] = {}
        for index in np.arange(count * size).reshape(count, size):
            rows = chosen[index]
            batch = put_rows((index, data[rows], None if labels is None else labels[rows]))
            values = jax.device_get(losses(train_state.params, train_state.state, train_state.step, *batch, active=active))
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + float(value) / count
        return totals

    return heldout
