"""The Transformer prior and VQ-VAE-2 against a few numbers that independent PyTorch code gave.

The recipe: weights `tests.weights.drawn`, all in float32; codes and images from `recipes.normal`, as `codes_of` and the tests
say; of VQ-VAE-2 twice the weights. Compared are the answers and the gradients.

How the numbers were computed. Transformer: `GPT` of model.py of karpathy/nanoGPT with biases, no dropout, the GELU of GPT-2's
own code (by tanh), and a vocabulary of codes and of a start token for each label; its logits of the codes, and the gradients of
the mean of -log p(code). VQ-VAE-2: `VQVAE` of vqvae.py of rosinality/vq-vae-2-pytorch, in evaluation, with the convolutions
of its top encoder as wide as ours, codebooks from `recipes.normal`; reconstruction, codes, the mean squared errors of the
reconstruction and of both quantizations, and the gradients of the former + 0.25 x the latter. The commits stand in the golden.
Every parameter of theirs was set from ours of the same place: kernels transposed, those of transposed convolutions turned, too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.models.vqvae2 import two_levels
from gm_jax.nets.code_priors import code_prior
from gm_jax.nets.codebook import vector_quantize
from gm_jax.quantized import Quantized, code_nll
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.recipes import normal
from tests.weights import drawn

GRID, CODES, LABELS = (3, 4), 7, np.array([2, 0], np.int32)
SMALL = {"name": "transformer", "channels": 32, "num_layers": 2, "num_heads": 4, "dropout": 0.0}
IMAGES, GRIDS, BOOK = (2, 16, 16, 3), ((2, 2), (4, 4)), (16, 4)


def codes_of(name: str, shape: tuple[int, ...], num_codes: int) -> np.ndarray:
    """Codes by the size of normal numbers, each of which stands for itself often enough."""
    return np.int32(np.floor(100 * np.abs(normal(name, shape)))) % num_codes


def transformer():
    prior = code_prior(SMALL, GRID, CODES, num_classes=3)
    params, codes = drawn(jax.eval_shape(prior.init, jax.random.key(0))), codes_of("codes", (2, *GRID), CODES)

    def loss(params):
        logits = prior.logits(params, codes, LABELS)
        return code_nll(logits, codes).mean() / (GRID[0] * GRID[1]), {"logits": logits}

    return loss, params


def vqvae2():
    networks = two_levels(3, BOOK[1], 16, 2, 2, GRIDS)
    x, keys = np.float32(normal("x", IMAGES)), jax.random.split(jax.random.key(0))
    params = jax.tree.map(lambda a: 2 * a, drawn(jax.eval_shape(networks.init, *keys, x)))  # so that codes differ
    books = [np.float32(normal(name, BOOK)) for name in ("top", "bottom")]

    def loss(params):
        found = networks.encode(params, x, lambda level, z: Quantized(z, *vector_quantize(z, books[level])))
        x_mean = networks.decode(params, [level.vectors for level in found])
        mse = jnp.mean((x - x_mean) ** 2)
        pairs = zip(books, found, strict=True)
        distance = sum(jnp.mean((level.z - jnp.asarray(book)[level.codes]) ** 2) for book, level in pairs)
        answer = {"x": x_mean, "mse": mse, "distance": distance, "top": found[0].codes, "bottom": found[1].codes}
        return mse + 0.25 * distance, answer

    return loss, params


@pytest.mark.parametrize("name, case", [("Transformer", transformer), ("VQ-VAE-2", vqvae2)])
def test_answers_and_gradients_are_those_of_independent_code(name, case):
    loss, params = case()
    with_gradients = jax.jit(jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    gradients, ours = with_gradients(params)
    golden = values(read("parity_code_models")[name])
    for layer in golden.keys() - ours.keys():
        leaf = gradients
        for key in layer.split("/"):
            leaf = leaf[key]
        ours[layer] = leaf
    found = {layer: np.array(value) for layer, value in numbers(ours).items()}
    assert difference(found, golden, relative=True) <= 1e-4
