"""A network that diffusers has saved, configured as google/ddpm-cifar10-32: imported, it answers as diffusers' own."""

import functools

import jax
import numpy as np
import pytest

from gm_jax.pretrained.loading import load
from tests.parity.comparison import Comparison
from tests.parity.unets import PAPER, TIMES, _by_image, _inputs, _network, _params, _their_output, their_network

pytest.importorskip("diffusers")
pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the peers


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_a_saved_network_is_imported(safe, tmp_path, record):
    their_network(PAPER).save_pretrained(tmp_path, safe_serialization=safe)
    model, variables = load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, variables.params["network"], _params(PAPER))
    assert model.diffusion.path.t_max == 1000

    def ours():
        x, t, _ = _inputs(PAPER)
        return _by_image(jax.jit(_network(PAPER).apply)({"params": variables.params["network"]}, x, t))

    inputs = f"saved as {'safetensors' if safe else 'PyTorch .bin'} and imported, t = {', '.join(map(str, TIMES))}; float32"
    what, theirs = "Published weights of DDPM: output", functools.partial(_their_output, PAPER)
    record(Comparison(what, "diffusers", "UNet2DModel.save_pretrained", inputs, 1e-5, ours, theirs, relative=True))
