"""What every metric asks of its input, in the same words: tables of finite numbers, and counts that make sense."""

import operator
from typing import Any

import numpy as np
from jaxtyping import Num

from gm_jax.errors import InputError

LARGEST = float(np.finfo(np.float32).max)  # beyond, squares and cubes would leave the range of float64
ROWS = 4096  # looked at at a time


def table(values: Any, what: str = "features") -> Num[np.ndarray, "n dim"]:
    """`values` [n, dim] as an array, in the dtype that they have: what is said of n images, a row each.

    Raises InputError for another shape, for what are no real numbers, and where some are NaN, infinite or beyond float32; it
    says of how many images.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "biuf":
        raise InputError(f"{what} are real numbers [n, dim], not {values.dtype} {list(values.shape)}; give a row per image")
    if bad := count_not_finite(values):
        raise InputError(
            f"{bad} of {len(values)} images have {what} that are not finite; check these images and what made the {what}"
        )
    return values


def count_not_finite(values: Num[np.ndarray, "n dim"]) -> int:
    """The number of rows that hold NaN, infinity, or a number beyond float32."""
    parts = (values[start : start + ROWS] for start in range(0, len(values), ROWS))
    return int(sum((~(np.abs(part) <= LARGEST)).any(1).sum() for part in parts))  # comparisons with NaN are false


def at_least(least: int, **numbers: Any) -> None:
    """Raises InputError for that of the `numbers`, by its name, which is no whole number of at least `least`."""
    for name, value in numbers.items():
        try:
            enough = operator.index(value) >= least
        except TypeError:
            enough = False
        if not enough:
            raise InputError(f"{name} is {value!r}; give a whole number of at least {least}")


def same_dimensions(a: int, b: int) -> None:
    """Raises InputError where the features of two sets have different numbers of dimensions."""
    if a != b:
        raise InputError(f"features of {a} and of {b} dimensions do not compare; take both from one extractor")
