"""Weights for tests: no zero left among them, so that a network answers something, and nothing is compiled to get them."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np


def drawn(shapes, dtype=None):
    """A tree of arrays in place of a tree of shapes, each leaf by its own path "a/b/c" alone.

    With n standard normal from numpy's `default_rng(crc32(path))`: n / sqrt(fan in) for "kernel" and "embedding" (fan in: the
    product of all but the last axis), 1 + 0.1 n for "scale", "gamma" and "delta", 0.1 n for all others.
    """

    def leaf(path, shape):
        keys = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        n = np.random.default_rng(zlib.crc32("/".join(keys).encode())).standard_normal(shape.shape)
        if keys[-1] in ("kernel", "embedding"):
            n = n / np.sqrt(np.prod(shape.shape[:-1]))
        elif keys[-1] in ("scale", "gamma", "delta"):
            n = 1 + 0.1 * n
        else:
            n = 0.1 * n
        return jnp.asarray(n, dtype or shape.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def equalized(params, rate: float = 0.01):
    """Drawn weights for layers that scale theirs by 1 / sqrt(fan in), and those of a mapping by `rate` more, in use."""

    def leaf(path, value):
        slow = rate if "mapping" in str(path) and "layer" in str(path) else 1.0
        return value * np.sqrt(np.prod(value.shape[:-1])) / slow if path[-1].key == "kernel" else value

    return jax.tree_util.tree_map_with_path(leaf, params)


def count(tree) -> int:
    """Of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
