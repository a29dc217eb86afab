"""Samplers step by step, schedules, grid and forward process against diffusers' schedulers."""

import pytest

from tests.parity.sampling import COMPARISONS
from tests.parity.schedules import Size

pytest.importorskip("diffusers")
pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers


@pytest.mark.parametrize("name", COMPARISONS)
def test_steps_are_those_of_the_schedulers_of_diffusers(name, record):
    record(COMPARISONS[name](Size()))
