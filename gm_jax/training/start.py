"""How a run begins: the batch that a model is initialised on, and the shapes of all that will change."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.core import Batch, Model
from gm_jax.data.dataset import subset
from gm_jax.training import learning
from gm_jax.training.batches import Keys, make_batch, seed_keys, stored_shapes

INIT_BATCH = 128  # examples that data-dependent initialisation sees, whatever the batch size of training


def first_batch(keys: Keys, data: np.ndarray, labels: np.ndarray | None, flip: bool, binarize: bool = False) -> Batch:
    """The batch that `model.init` sees, some of the stored data: the same on every device count and for every batch size."""
    rows = subset(len(data), INIT_BATCH)
    of_rows = None if labels is None else jnp.asarray(labels[rows])
    return make_batch(keys, 0, jnp.arange(len(rows)), jnp.asarray(data[rows]), of_rows, flip, binarize=binarize)


def abstract_state(
    model: Model, optimizers: Mapping[str, Any], image_shape: tuple[int, ...], num_classes: int | None
) -> learning.TrainState:
    """Shapes and dtypes of the train state for data of one shape, without computing anything."""

    def init(data, labels):
        keys = seed_keys(0)
        batch = make_batch(keys, 0, jnp.arange(INIT_BATCH), data, labels, False)
        return learning.init_state(model, optimizers, keys.init, batch)

    return jax.eval_shape(init, *stored_shapes(INIT_BATCH, image_shape, num_classes))
