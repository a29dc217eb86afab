"""What a task of the evaluation is given, and what it is."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from gm_jax.core import Model, PyTree, Variables
from gm_jax.data import binary
from gm_jax.data.dataset import subset
from gm_jax.errors import InputError
from gm_jax.evaluation.draw import balanced_labels, draw_samples
from gm_jax.system.batching import Progress, map_batches

JUDGING = {"inception": "", "extractor": "auto", "reference": "train", "sets": 1}


class Context(NamedTuple):
    """A trained model, the data to compare it with, and how to go about it."""

    model: Model
    variables: Variables
    dataset: Any  # gm_jax.data.sources.Dataset: x_train, x_test (uint8), y_train, y_test, image_shape, num_classes
    out: Path  # folder for pictures and results.json
    n: int | None = None  # how many; None: the task's default
    seed: int = 0
    batch_size: int = 256
    weights: str = "ema"  # "ema" or "raw": which weights `variables` are
    step: int = 0  # the training step they come from
    options: Mapping[str, Any] = {}  # keyword options of model.sample and model.trajectory
    labels: tuple[int, ...] = ()  # the classes that a conditional model draws; (): all
    likelihood_options: Mapping[str, Any] = {}  # keyword options of the model's likelihoods
    judging: Mapping[str, Any] = JUDGING  # how samples are compared with real images: config.eval
    progress: Progress | None = None  # called with (done, total) by the task at work
    stage: Callable[[str], Progress] = lambda name: lambda done, total: None  # a progress of its own for a part of a task
    model_name: str = "this model"
    workdir: Path | None = None  # of the run that the model comes from; None: no records of it are at hand

    @property
    def points(self) -> bool:
        """Are the data points instead of images?"""
        return len(self.dataset.image_shape) == 1

    def real(self, split: str, n: int | None = None) -> tuple[np.ndarray, Int[np.ndarray, " n"] | None]:
        """n examples of "train" or "test" (all, if there are no more) and their labels, chosen at random but always the same.

        Raises InputError for another word.
        """
        data = self.dataset
        splits = {"train": (data.x_train, data.y_train), "test": (data.x_test, data.y_test)}
        if split not in splits:
            raise InputError(f"eval.reference={split!r} is no split; choose train or test")
        x, y = splits[split]
        rows = subset(len(x), len(x) if n is None else n)
        x = binary.drawn(x[rows], stream=0) if getattr(data, "binarize", False) and split == "train" else x[rows]
        return x, None if y is None else y[rows]

    def drawn_labels(self, n: int) -> Int[np.ndarray, " n"] | None:
        """Labels for n samples, the classes in turn; None for an unconditional model."""
        return balanced_labels(self.model.num_classes, n, self.labels)

    def given_labels(self, labels: Int[np.ndarray, " n"] | None) -> Int[np.ndarray, " n"] | None:
        """The labels of real data as far as the model takes them."""
        return None if self.model.num_classes is None else labels

    def draw(self, progress: Progress | None = None) -> tuple[np.ndarray, Int[np.ndarray, " n"] | None]:
        """n samples as they are stored, and the labels that they were drawn for."""
        labels = self.drawn_labels(self.n)
        settings = {"options": self.options, "progress": progress or self.progress}
        return draw_samples(self.model, self.variables, self.n, self.seed, self.batch_size, labels, **settings), labels

    def map(self, fn: Callable[..., PyTree], n: int, *rows: Any) -> PyTree:
        """`fn(variables, keys, *rows)` for n examples: `map_batches` under this context's seed and batch size."""
        settings = {"seed": self.seed, "batch_size": self.batch_size, "progress": self.progress}
        return map_batches(fn, self.variables, n, *rows, **settings)


class Task(NamedTuple):
    """`fn(context)` writes pictures into `context.out` and returns what it measured.

    The returned dict maps a metric's name to its entry, a dict with at least "value"; an entry may state its own "n" and
    "split", and under "without" the fields of its origin (`results.provenance`) that do not bear on it. Under the name
    "pictures" stands the list of the files written, relative to `context.out`. A task never sees `context.n` None.
    """

    fn: Callable[[Context], dict[str, Any]]
    help: str  # one line
    n: int  # default of context.n
    needs: tuple[str, ...] = ()  # keys of gm_jax.evaluation.tasks.NEEDS
    images_per_n: int = 0  # test images that one of the n takes
    sampler: bool = False  # does context.options bear on the result?
    judges: bool = False  # does it look through an extractor?
    scales: bool = False  # is a larger n a better measurement?
    slow: bool = False  # is it left out of "all"?
    default_n: Callable[[Context], int] | None = None  # instead of `n`, where it depends on the data and the device
