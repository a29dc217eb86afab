"""Feature extractors: what metrics look at images through."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from gm_jax.batching import Progress, batches
from gm_jax.core import ByteImages, PyTree


class Features(NamedTuple):
    """What an extractor says of n images: a point per image, and class logits where it is a classifier."""

    features: Float[Array, "n dim"]
    logits: Float[Array, "n classes"] | None = None


class Extractor(NamedTuple):
    """A map from images to points, under a name that stands in the name of every metric computed with it.

    `fn(variables, images)` takes uint8 images [b, H, W, C] and returns `Features`, row by row: what it says of an image must
    not depend on the others. `digest` tells extractors of one name apart: the sha256 of the weights.
    """

    name: str  # such as "inception2048", "inception768", "digits_classifier", "dinov2"
    digest: str
    fn: Callable[[PyTree, ByteImages], Features]
    variables: PyTree = ()
    jit: bool = True  # False: fn is called with NumPy arrays, for networks of other frameworks
    batch_size: int = 256


def from_callable(
    fn: Callable[[ByteImages], Array], name: str, digest: str = "", jit: bool = False, batch_size: int = 256
) -> Extractor:
    """An extractor from any function of uint8 images [b, H, W, C] that returns features [b, d] (or `Features`).

    Give `digest` (say, the sha256 of the weights file) where cached statistics must tell two versions of `fn` apart; without
    it the source text of `fn` is hashed, which does not see weights. `jit=True` for a JAX function, to be compiled and spread
    over the devices.
    """

    def call(variables, images):
        del variables
        found = fn(images)
        return found if isinstance(found, Features) else Features(found)

    return Extractor(name, digest or _source_digest(fn), call, (), jit, batch_size)


def _source_digest(fn: Callable) -> str:
    try:
        source = inspect.getsource(fn)
    except (OSError, TypeError):  # built in, typed at a prompt, or an object
        source = repr(type(fn))
    return hashlib.sha256(source.encode()).hexdigest()


def extract_batches(
    extractor: Extractor, images: ByteImages, batch_size: int | None = None, progress: Progress | None = None
) -> Iterator[Features]:
    """Features of uint8 images [n, H, W, C] in order, batch by batch, as float32 NumPy arrays.

    Spread over the local devices; the last, partial batch counts as any other; the batch size alters speed and memory only.
    """
    size, n = batch_size or extractor.batch_size, len(images)
    if extractor.jit:
        yield from batches(_keyless(extractor.fn), extractor.variables, n, images, batch_size=size, progress=progress)
        return
    for start in range(0, n, size):
        found = extractor.fn(extractor.variables, images[start : start + size])
        yield Features(*(None if part is None else np.asarray(part, np.float32) for part in found))
        if progress is not None:
            progress(min(start + size, n), n)


def extract(
    extractor: Extractor, images: ByteImages, batch_size: int | None = None, progress: Progress | None = None
) -> Features:
    """The same (`extract_batches`, which see), joined: float32 [n, d] and logits [n, k] or None."""
    parts = list(extract_batches(extractor, images, batch_size, progress))
    return Features(*(None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)))


@functools.lru_cache(maxsize=8)
def _keyless(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` in the form that `batches` calls: the same function for the same `fn`, so that it is compiled once."""
    return lambda variables, keys, images: fn(variables, images)
