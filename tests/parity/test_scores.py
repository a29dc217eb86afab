"""KID, inception score, precision, recall, density, coverage and Frechet distance against three packages."""

import pytest

from tests.parity.scores import COMPARISONS, Size

MODULES = {"torch-fidelity": "torch_fidelity", "pytorch-fid": "pytorch_fid.fid_score", "prdc": "prdc"}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers


@pytest.mark.parametrize("name", COMPARISONS)
def test_metrics_of_features_agree(name, record):
    comparison = COMPARISONS[name](Size())
    pytest.importorskip(MODULES[comparison.package])
    record(comparison)
