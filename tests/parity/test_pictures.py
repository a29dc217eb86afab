"""SSIM, the resize before Inception, and Inception itself, against scikit-image and torch-fidelity."""

import pytest

from tests.parity.pictures import COMPARISONS

MODULES = {"ssim": "skimage", "resize": "torch_fidelity", "inception": "torch_fidelity"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers


@pytest.mark.parametrize("name", COMPARISONS)
def test_what_looks_at_images_agrees(name, record):
    pytest.importorskip(MODULES[name])
    record(COMPARISONS[name]())
