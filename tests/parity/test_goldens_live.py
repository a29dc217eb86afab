"""The goldens are still what the peers answer. GM_JAX_PARITY_WRITE=1 in the environment writes them anew first."""

import os

import numpy as np
import pytest

from tests.parity.comparison import difference
from tests.parity.goldens import KEPT, numbers, read, values, write

for peer in ("prdc", "skimage", "diffusers", "torch", "torch_fidelity", "pytorch_fid.fid_score", "vector_quantize_pytorch"):
    pytest.importorskip(peer)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers


@pytest.mark.parametrize("file", KEPT)
def test_goldens_are_what_the_peers_answer(file):
    if os.environ.get("GM_JAX_PARITY_WRITE"):
        write(file)
    for name, golden in read(file).items():
        theirs = {key: np.array(value) for key, value in numbers(KEPT[file][name]().theirs()).items()}
        assert difference(theirs, values(golden), relative=True) < 1e-4, name
