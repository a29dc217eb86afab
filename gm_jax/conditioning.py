"""Class labels: which models take them, how they are drawn, left out, and told to a network."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.core import Key, Labels
from gm_jax.errors import InputError

NO_LABEL = -1  # in a batch of labels: this example has none


def classes_of(num_classes: int | None, class_conditional: bool) -> int | None:
    """How many classes a model tells apart: those of the data, or None, which is `Model.num_classes` of an unconditional one.

    Raises InputError where labels are wanted that the data has not.
    """
    if class_conditional and num_classes is None:
        raise InputError("class_conditional=True needs labels, which this data set has not; set it to False")
    return num_classes if class_conditional else None


def check_labels(labels: Labels | None, num_classes: int | None, least: int = 0) -> None:
    """Raises InputError for labels that an unconditional model is given, and for what are no labels [n] below num_classes.

    `least`: the smallest label, 0, or -1 where "no label" is one, too. Values are looked at where they are known: not while a
    function is being traced.
    """
    if labels is None:
        return
    if num_classes is None:
        raise InputError("this model is unconditional: leave labels at None")
    if not hasattr(labels, "dtype"):
        raise InputError(f"labels are an array of whole numbers [n], one a sample, not {type(labels).__name__}")
    kind, shape = labels.dtype, labels.shape
    if len(shape) != 1 or not jnp.issubdtype(kind, jnp.integer):
        raise InputError(f"labels are whole numbers [n], one a sample, not {kind} {list(shape)}")
    if not isinstance(labels, jax.core.Tracer):
        values = np.asarray(labels)
        if len(values) and (values.min() < least or values.max() >= num_classes):
            raise InputError(f"labels reach from {values.min()} to {values.max()}; this model knows 0 to {num_classes - 1}")


def draw_labels(keys: Key, num_classes: int) -> Labels:
    """One label a key, all classes equally probable: what a conditional model of p(x|y) is sampled with in want of labels."""
    return jax.vmap(lambda key: jax.random.randint(key, (), 0, num_classes))(keys)


def drop_labels(keys: Key, labels: Labels, probability: float) -> Labels:
    """-1, "no label", in the place of some, drawn for each example (Ho & Salimans 2022, algorithm 1)."""
    dropped = jax.vmap(lambda key: jax.random.bernoulli(key, probability))(keys)
    return jnp.where(dropped, NO_LABEL, labels)


def one_hot(labels: Labels | None, n: int, num_classes: int) -> Float[Array, "n {num_classes}"]:
    """Rows of the unit matrix; zeros for the label -1, and for all n where there are no labels."""
    return jnp.zeros((n, num_classes)) if labels is None else jax.nn.one_hot(labels, num_classes)
