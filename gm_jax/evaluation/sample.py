"""Draws samples from a model as uint8 images."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from gm_jax.batching import Progress, batches
from gm_jax.core import Model, Variables
from gm_jax.errors import InputError
from gm_jax.images import to_uint8


def sample_batches(
    model: Model,
    variables: Variables,
    n: int,
    seed: int = 0,
    batch_size: int = 256,
    labels: Int[np.ndarray, " n"] | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    first: int = 0,
) -> Iterator[UInt8[np.ndarray, "batch height width channel"]]:
    """n samples as uint8 images, batch by batch, those of indices first, first + 1, ...

    Sample i is drawn with the key `fold_in(key(seed), i)`: it is the same image, within one level, whatever n, the batch size
    and the device count. `options` go to `model.sample` (sampler, steps ...), which raises on one that it does not know. The
    work is spread over the local devices, which draw the next batch while the caller looks at this one; `progress(done, n)` is
    called after every batch. Raises InputError as soon as a pixel is not finite.
    """
    draw = _draw(model, tuple(sorted((options or {}).items())))
    settings = {"seed": seed, "first": first, "batch_size": batch_size, "progress": progress}
    for images, finite in batches(draw, variables, n, labels, **settings):
        if not finite.all():
            raise InputError(
                f"{(~finite).sum()} of {len(finite)} samples hold NaN or infinite pixels; "
                "try other sampling options, the other weights (ema or raw) or an earlier checkpoint"
            )
        yield images


def sample(*args: Any, **kwargs: Any) -> UInt8[np.ndarray, "n height width channel"]:
    """The samples of `sample_batches` (which see, for the arguments) in one array."""
    return np.concatenate(list(sample_batches(*args, **kwargs)))


@functools.lru_cache(maxsize=8)
def _draw(model: Model, options: tuple[tuple[str, Any], ...]) -> Callable:
    """One function per model and options, so that it is compiled once however often it is called."""

    def draw(variables, keys, labels):
        x = model.sample(variables, keys, labels, **dict(options))
        return to_uint8(x), jnp.isfinite(x).all(axis=(1, 2, 3))

    return draw
