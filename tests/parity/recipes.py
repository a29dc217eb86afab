"""Inputs of the comparisons, by NumPy alone, so that the same numbers can be made anywhere."""

import zlib

import numpy as np
from jaxtyping import Float, UInt8


def normal(name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "*shape"]:
    """Standard normal float64 numbers of their own for every name: `numpy.random.default_rng(crc32(name))`."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)


def images(name: str, shape: tuple[int, ...]) -> UInt8[np.ndarray, "*shape"]:
    """Noise that is correlated along the rows, as levels 0..255: 127.5 + 30 x the cumulated `normal`, clipped and rounded."""
    levels = 127.5 + 30 * np.cumsum(normal(name, shape), axis=2)
    return np.clip(levels, 0, 255).round().astype(np.uint8)


def features(name: str, n: int, dim: int, shift: float = 0.0) -> Float[np.ndarray, "n dim"]:
    """`shift` + `normal`, coordinate j = 1..dim scaled by 1 / sqrt(j): far fewer directions matter than there are."""
    return (shift + normal(name, (n, dim))) / np.sqrt(np.arange(1, dim + 1))
