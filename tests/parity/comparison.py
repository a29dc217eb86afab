"""What a comparison with an independent implementation is, and how far two results are from one another."""

from collections.abc import Callable, Mapping
from importlib import metadata
from typing import NamedTuple

import numpy as np

Values = Mapping[str, np.ndarray]  # name -> numbers

FEW = 24  # numbers of one array that a golden keeps whole


class Comparison(NamedTuple):
    """Two ways to the same numbers."""

    what: str
    package: str  # the peer's name on PyPI
    function: str  # of the peer
    inputs: str
    tolerance: float
    ours: Callable[[], Values]
    theirs: Callable[[], Values]  # imports the peer
    relative: bool = False  # differences in units of the largest number of each array


def peer(comparison: Comparison) -> tuple[str, str]:
    """The package and the version of it that is installed."""
    return comparison.package, metadata.version(comparison.package)


def difference(ours: Values, theirs: Values, relative: bool = False) -> float:
    """The largest, over all numbers. Raises AssertionError for other names or shapes and for numbers that are not finite."""
    assert ours.keys() == theirs.keys(), f"{sorted(ours.keys() ^ theirs.keys())} are in one only"
    largest = 0.0
    for name in ours:
        a, b = (np.asarray(values[name], np.float64) for values in (ours, theirs))
        assert a.shape == b.shape, f"{name}: {a.shape} and {b.shape}"
        assert np.isfinite(a).all() and np.isfinite(b).all(), f"{name} is not finite"
        assert not relative or np.abs(b).max() > 0, f"{name} is zero"
        largest = max(largest, np.abs(a - b).max() / (np.abs(b).max() if relative else 1.0))
    return float(largest)


def summary(values: Values) -> dict[str, np.ndarray]:
    """Of each array all numbers, where they are few, else its root mean square and five of its numbers, evenly spaced."""
    return {name: _few(np.asarray(value, np.float64)) for name, value in values.items()}


def _few(value: np.ndarray) -> np.ndarray:
    if value.size <= FEW:
        return value
    flat = value.reshape(-1)
    chosen = flat[(np.arange(0.5, 5) * len(flat) / 5).astype(int)]
    return np.append(np.sqrt(np.mean(flat**2)), chosen)
