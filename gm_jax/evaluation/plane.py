"""How good samples are that are points of a plane with a known density."""

from typing import Any

import numpy as np
from jaxtyping import Float

from gm_jax.data.dataset import Dataset
from gm_jax.data.toys import TOYS
from gm_jax.errors import InputError
from gm_jax.evaluation.context import Context
from gm_jax.metrics.points import cell_masses, expected_distance, histogram_distance, mode_coverage

BINS = 32  # a side


def points(context: Context) -> dict[str, Any]:
    """`histogram_distance_N`: the total variation distance of the histogram of n samples to the exact density, in [0, 1]; its
    `_floor` is what n exact samples have on average. Of a mixture `modes_found_N` and `high_quality_N`, the share of samples
    within three standard deviations of a mode (`metrics.points`).
    """
    toy, masses = TOYS[context.dataset.name], exact_masses(context.dataset)
    x, _ = context.draw()
    name, protocol = f"histogram_distance_{context.n}", {"bins": BINS}
    found = {
        name: {"value": histogram_distance(x, masses, toy.box)} | protocol,
        f"{name}_floor": {"value": expected_distance(masses, context.n)} | protocol | {"weights": None, "step": None},
    }
    if toy.modes is not None:
        modes, share = mode_coverage(x, toy.modes, toy.std)
        found[f"modes_found_{context.n}"] = {"value": modes, "of": len(toy.modes)}
        found[f"high_quality_{context.n}"] = {"value": share}
    return found


def exact_masses(dataset: Dataset) -> Float[np.ndarray, "bins bins"]:
    """The probability of each cell of the plot. Raises InputError for data whose density is not known."""
    if dataset.name not in TOYS:
        raise InputError(f"the density of {dataset.name} is not known; points are judged on {', '.join(TOYS)}")
    toy = TOYS[dataset.name]
    return cell_masses(toy.log_density, toy.box, BINS)


def has_density(context: Context) -> bool:
    """Is the density of the data known?"""
    return context.dataset.name in TOYS
