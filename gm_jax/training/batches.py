"""The batch of a step, and the keys of its randomness: pure functions of (seed, step)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from gm_jax.core import Batch, Key, Labels, streams
from gm_jax.errors import InputError
from gm_jax.images import to_float


class Keys(NamedTuple):
    """The roots of all randomness of a run."""

    init: Key
    augment: Key
    noise: Key
    dropout: Key
    heldout: Key


def seed_keys(seed: int) -> Keys:
    """Raises InputError for a seed outside 0..2^32 - 1, of which JAX would silently use the last 32 bits only."""
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}; it must lie in 0..{2**32 - 1}")
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def example_keys(root: Key, step: int | Array, index: Int[Array, " batch"]) -> Key:
    """One key per example: fold_in(fold_in(root, step), global index)."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(root, step), index)


def stored_shapes(n: int, image_shape: tuple[int, ...], num_classes: int | None) -> tuple[jax.ShapeDtypeStruct, Any]:
    """The shapes of n stored examples and of their labels, which are None for unlabelled data."""
    dtype = jnp.uint8 if len(image_shape) == 3 else jnp.float32
    labels = None if num_classes is None else jax.ShapeDtypeStruct((n,), jnp.int32)
    return jax.ShapeDtypeStruct((n, *image_shape), dtype), labels


def make_batch(
    keys: Keys,
    step: int | Array,
    index: Int[Array, " batch"],
    data: UInt8[Array, "batch h w c"] | Float[Array, "batch dim"],
    labels: Labels | None,
    flip: bool,
    total: int | None = None,
    binarize: bool = False,
) -> Batch:
    """A batch from stored data: images in [-1, 1], points as they are.

    `index` is each example's place in the global batch, of `total` examples; None: of these. binarize: every pixel becomes
    white with the probability that is its level, else black (`data.binary`).
    """
    x = to_float(data) if data.dtype == jnp.uint8 else data
    augment_keys = example_keys(keys.augment, step, index)
    if binarize:
        white = jax.vmap(lambda key, level: jax.random.bernoulli(key, level / 255))(*streams(augment_keys, "binarize"), data)
        x = jnp.where(white, 1.0, -1.0)
    if flip:
        mirrored = jax.vmap(jax.random.bernoulli)(augment_keys)
        x = jnp.where(mirrored[:, None, None, None], x[:, :, ::-1], x)
    (shared,) = streams(jax.random.fold_in(keys.noise, step), "even")
    even = (jax.random.uniform(shared) + index / (total or len(index))) % 1.0
    return Batch(x, labels, example_keys(keys.noise, step, index), even)
