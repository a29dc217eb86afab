"""Draws samples from a model: images as uint8, points as float32."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int, UInt8

from gm_jax.core import Model, Variables
from gm_jax.errors import InputError
from gm_jax.images import to_uint8
from gm_jax.system.batching import Progress, batches


def draw_batches(
    model: Model,
    variables: Variables,
    n: int,
    seed: int = 0,
    batch_size: int = 256,
    labels: Int[np.ndarray, " n"] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    first: int = 0,
) -> Iterator[UInt8[np.ndarray, "batch height width channel"] | Float32[np.ndarray, "batch dim"]]:
    """n samples as they are stored, batch by batch, those of indices first, first + 1, ...

    Sample i is drawn with the key `fold_in(key(seed), i)`: it is the same image, within one level, whatever n, the batch size
    and the device count. `options` go to `model.sample` (sampler, steps ...), which raises on one that it does not know. The
    work is spread over the local devices, which draw the next batch while the caller looks at this one; `progress(done, n)` is
    called after every batch. Raises InputError as soon as a number is not finite.
    """
    draw = _draw(model, tuple(sorted((name, hashable(value)) for name, value in (options or {}).items())))
    settings = {"seed": seed, "first": first, "batch_size": batch_size, "progress": progress}
    for x, finite in batches(draw, variables, n, labels, **settings):
        if not finite.all():
            raise InputError(
                f"{(~finite).sum()} of {len(finite)} samples hold NaN or infinite numbers; "
                "try other sampling options, the other weights (ema or raw) or an earlier checkpoint"
            )
        yield x


def draw_samples(*args: Any, **kwargs: Any) -> UInt8[np.ndarray, "n height width channel"] | Float32[np.ndarray, "n dim"]:
    """The samples of `draw_batches` (which see, for the arguments) in one array."""
    return np.concatenate(list(draw_batches(*args, **kwargs)))


def hashable(value: Any) -> Any:
    """The value of an option with tuples in place of lists, which are all that JSON knows."""
    return tuple(map(hashable, value)) if isinstance(value, list | tuple) else value


def balanced_labels(num_classes: int | None, n: int, classes: Sequence[int] = ()) -> Int[np.ndarray, " n"] | None:
    """Labels for n samples: the classes (all, if none are named) in turn, so that sample i has the same whatever n.

    None for a model without classes. Raises InputError for classes that it has not.
    """
    if num_classes is None:
        if classes:
            raise InputError(f"eval.labels={tuple(classes)}: this model is unconditional; leave them empty")
        return None
    if any(label >= num_classes for label in classes):
        raise InputError(f"eval.labels={tuple(classes)}: this model knows the classes 0 to {num_classes - 1}")
    return np.resize(np.array(classes or range(num_classes), np.int32), n)


@functools.lru_cache(maxsize=8)
def _draw(model: Model, options: tuple[tuple[str, Any], ...]) -> Callable:
    """One function per model and options, so that it is compiled once however often it is called."""

    def draw(variables, keys, labels):
        x = model.sample(variables, keys, labels, **dict(options))
        return to_uint8(x) if x.ndim == 4 else x, jnp.isfinite(x).all(axis=range(1, x.ndim))

    return draw
