"""Samplers, U-Net, metrics and vector quantization against a few numbers that the peers' packages gave for small inputs.

The recipe. Inputs are `recipes.normal(name, shape)`: `numpy.random.default_rng(zlib.crc32(name.encode()))`, standard normal;
the modules `sampling`, `schedules`, `unets`, `scores`, `pictures` and `codes` say which, and `goldens` says in which size. The
U-Net's weights are `tests.weights.drawn`. Of arrays of more than 24 numbers the root mean square and five of them are kept.

Goldens have ten digits: float64 is compared to 1e-9 of the largest number, float32 as in the live comparison.
"""

import numpy as np
import pytest

from tests.parity.comparison import difference
from tests.parity.goldens import KEPT, numbers, read, values

TEN_DIGITS = 1e-9
NAMES = [(file, name) for file, comparisons in KEPT.items() for name in comparisons]


@pytest.mark.parametrize("file", KEPT)
def test_there_is_a_golden_for_every_comparison(file):
    assert list(read(file)) == list(KEPT[file])


@pytest.mark.parametrize("file, name", NAMES, ids=[f"{file.removeprefix('parity_')}: {name}" for file, name in NAMES])
def test_our_numbers_are_those_of_the_peer(file, name):
    comparison, golden = KEPT[file][name](), read(file)[name]
    assert comparison.inputs == golden["inputs"]
    ours, theirs = ({key: np.array(value) for key, value in numbers(comparison.ours()).items()}, values(golden))
    largest = 1.0 if comparison.relative else max(np.abs(value).max() for value in theirs.values())
    assert difference(ours, theirs, comparison.relative) <= max(comparison.tolerance, TEN_DIGITS * largest)
