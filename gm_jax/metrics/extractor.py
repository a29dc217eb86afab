"""Feature extractors: what metrics look at images through."""

import functools
import math
import uuid
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.core import ByteImages, PyTree
from gm_jax.errors import InputError
from gm_jax.metrics.checks import at_least
from gm_jax.system.batching import Progress, batches

UNKNOWN = "unknown-"  # starts digests that stand for one extractor of one process


class Features(NamedTuple):
    """What an extractor says of n images: a point per image, and class logits where it is a classifier."""

    features: Float[Array, "n dim"]
    logits: Float[Array, "n classes"] | None = None


class Extractor(NamedTuple):
    """A map from images to points, under a name that stands in the name of every metric computed with it.

    `fn(variables, images)` takes uint8 images [b, H, W, C] and returns `Features`, row by row: what it says of an image must
    not depend on the others. `digest` tells extractors of one name apart: the sha256 of the weights.

    Features are float32 [b, d], logits [b, k]; more axes are allowed if all but one of them have length 1, as networks leave
    them behind ([b, d, 1, 1]). Another form raises InputError when images are extracted.
    """

    name: str  # such as "inception2048", "inception768", "digits_classifier", "dinov2"
    digest: str
    fn: Callable[[PyTree, ByteImages], Features]
    variables: PyTree = ()
    jit: bool = True  # False: fn is called with NumPy arrays, for networks of other frameworks
    batch_size: int = 256

    @property
    def lasting(self) -> bool:
        """Whether the digest means the same in another process: only then are features kept on disk."""
        return bool(self.digest) and not self.digest.startswith(UNKNOWN)


def from_callable(
    fn: Callable[[ByteImages], Array], name: str, digest: str = "", jit: bool = False, batch_size: int = 256
) -> Extractor:
    """An extractor from any function of uint8 images [b, H, W, C] that returns features [b, d] (or `Features`).

    Give `digest` (say, the sha256 of the weights file) to have the features of real images kept on disk for the next time.
    Nothing but its caller can tell what a function depends on (weights, closures, files), so that without it each call of
    `from_callable` makes an extractor of its own, whose features are computed whenever they are needed: make one, and one
    `Reference` with it, where several metrics want them. `jit=True` for a JAX function, to be compiled and spread over the
    devices; like all such functions it must not change what it depends on.
    """

    def call(variables, images):
        del variables
        found = fn(images)
        return found if isinstance(found, tuple) else Features(found)  # Features are a tuple; others are refused later

    return Extractor(name, digest or f"{UNKNOWN}{uuid.uuid4().hex}", call, (), jit, batch_size)


def extract_batches(
    extractor: Extractor, images: ByteImages, batch_size: int | None = None, progress: Progress | None = None
) -> Iterator[Features]:
    """Features of uint8 images [n, H, W, C] in order, batch by batch, as float32 NumPy arrays.

    Spread over the local devices; the last, partial batch counts as any other; the batch size alters speed and memory only.
    Raises InputError where the extractor's answer has not the form that `Extractor` asks for.
    """
    size, n = extractor.batch_size if batch_size is None else batch_size, len(images)
    at_least(1, batch_size=size)
    if extractor.jit:
        fn = _keyless(extractor.fn, extractor.name)
        yield from batches(fn, extractor.variables, n, images, batch_size=size, progress=progress)
        return
    form = None
    for start in range(0, n, size):
        batch = images[start : start + size]
        found = _formed(extractor.fn(extractor.variables, batch), len(batch), extractor.name, np)
        form = form or _dimensions(found)
        if _dimensions(found) != form:
            raise InputError(f"{extractor.name} gives {_words(form)}, then {_words(_dimensions(found))}; give the same for all")
        yield found
        if progress is not None:
            progress(min(start + size, n), n)


def extract(
    extractor: Extractor, images: ByteImages, batch_size: int | None = None, progress: Progress | None = None
) -> Features:
    """The same (`extract_batches`, which see), joined: float32 [n, d] and logits [n, k] or None.

    Raises InputError without images.
    """
    parts = list(extract_batches(extractor, images, batch_size, progress))
    if not parts:
        raise InputError("there are no images to extract features of; give at least one")
    return Features(*(None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True)))


@functools.lru_cache(maxsize=8)
def _keyless(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`fn` in the form that `batches` calls: the same function for the same `fn`, so that it is compiled once."""
    return lambda variables, keys, images: _formed(fn(variables, images), len(images), name, jnp)


def _formed(found: Any, n: int, name: str, xp: Any) -> Features:
    """An extractor's answer for n images as float32 arrays of `xp` (NumPy, or JAX under `jit`), two axes each."""
    if isinstance(found, tuple) and not isinstance(found, Features):
        raise InputError(f"{name} gives a tuple of {len(found)}; let it give features, or metrics.Features(features, logits)")
    features, logits = found if isinstance(found, Features) else (found, None)
    rows = _rows(features, n, f"features of {name}", xp)
    return Features(rows, None if logits is None else _rows(logits, n, f"logits of {name}", xp))


def _rows(values: Any, n: int, what: str, xp: Any) -> Array:
    try:
        values = xp.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors of other frameworks on their devices
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(f"{what} cannot be read as an array ({reason}); give NumPy arrays") from error
    real = any(jnp.issubdtype(values.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_))
    first, *others = values.shape or (None,)
    if not real or first != n or not others or math.prod(others) != max(others) or not math.prod(others):
        raise InputError(
            f"{what} are {values.dtype} {list(values.shape)} for {n} images; give real numbers [{n}, d]: a row per image, "
            "and means over a grid"
        )
    return values.reshape(n, -1).astype(np.float32)


def _dimensions(features: Features) -> tuple[int, int]:
    return features.features.shape[1], 0 if features.logits is None else features.logits.shape[1]


def _words(dimensions: tuple[int, int]) -> str:
    return "{} features and {} logits".format(*dimensions)
