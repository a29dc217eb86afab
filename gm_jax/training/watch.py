"""What is looked at while a model is being trained. The training loop is handed watchers, and does not know what they see."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gm_jax.core import Model, Variables
from gm_jax.data.dataset import Dataset


class Sight(NamedTuple):
    """What a watcher saw: numbers for the curves, uint8 pictures for the work directory."""

    scalars: Mapping[str, float] = {}
    pictures: Mapping[str, np.ndarray] = {}


class Watcher(NamedTuple):
    """Something that is looked at every `every` steps and at the end, in the averaged variables.

    `look` raises InputError where there is nothing to be seen yet (samples that are not finite, say), which is no reason to
    stop training. `prepare(say)` is called before the first step and may take minutes.
    """

    name: str
    every: int
    look: Callable[[Variables], Sight]
    prepare: Callable[[Callable[[str], None]], None] = lambda say: None


# (config, data set, model for one device, shapes of its variables) -> watchers, checked: InputError before any work is done
Watch = Callable[[Mapping[str, Any], Dataset, Model, Variables], Sequence[Watcher]]


def nobody(config: Mapping[str, Any], dataset: Dataset, model: Model, abstract: Variables) -> Sequence[Watcher]:
    """No watchers."""
    return ()
