"""Vector quantization and its codebook against vector-quantize-pytorch."""

import pytest

from tests.parity.codes import COMPARISONS, Size

pytest.importorskip("vector_quantize_pytorch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers


@pytest.mark.parametrize("name", COMPARISONS)
def test_quantization_and_the_codebook_agree(name, record):
    record(COMPARISONS[name](Size()))
