"""The U-Net of DDPM against `diffusers.UNet2DModel`."""

import pytest

from tests.parity.unet_weights import Sizes
from tests.parity.unets import COMPARISONS, PAPER, PAPER_PARAMETERS, parameters

pytest.importorskip("diffusers")
pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers


def test_the_published_configuration_has_as_many_parameters_as_ours(record):
    comparison = parameters()
    record(comparison)
    assert comparison.theirs()["parameters"] == PAPER_PARAMETERS


def test_outputs_of_the_network_of_the_paper_agree(record):
    record(COMPARISONS["output"](PAPER))


def test_gradients_of_a_narrow_network_agree(record):
    record(COMPARISONS["gradients"](Sizes()))
