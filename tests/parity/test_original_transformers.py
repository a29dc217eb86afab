"""DiT and U-ViT against a few numbers that the authors' own PyTorch networks gave.

The recipe: images `recipes.normal("x", shape)`, targets `recipes.normal("eps", shape)`, weights `tests.weights.drawn`, all in
float32; compared are the answers and the gradients of their mean squared error. Two images of 8x8x3, the first with the label 0
of ten, the second with none; patches of 2x2, 32 channels, four heads, two blocks of DiT and three of U-ViT.

How the numbers were computed: `DiT` of models.py of facebookresearch/DiT, learn_sigma=False, evaluated, with the layers that
it takes from timm written out (those of timm 1.0.31 itself alter the golden by at most 8.5e-6); `UViT` of libs/uvit.py of
baofff/U-ViT, with an eleventh class for no label; the commits stand in the golden. Every parameter of theirs was set from ours
of the same place: queries, keys and values are one layer there.

All numbers differed from ours by at most 2.4e-6 (answers) and 1.5e-5 (gradients) of the largest for DiT, 4.3e-7 and 1.2e-6 for
U-ViT; on 32x32 DiT-S/2 by 3.7e-6 and 2.1e-5, U-ViT-S/2 by 1.5e-6 and 1.8e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.nets.backbones import backbone
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.recipes import normal
from tests.weights import drawn

SIZES = {"channels": 32, "num_heads": 4}
CASES = {"DiT": {"name": "dit", "depth": 2}, "U-ViT": {"name": "uvit", "depth": 3}}
SHAPE, TIMES = (2, 8, 8, 3), np.float32([17.5, 900.0])


@pytest.mark.parametrize("name", CASES)
def test_answers_and_gradients_are_those_of_the_authors_networks(name):
    net = backbone({**CASES[name], **SIZES}, SHAPE[1:], num_classes=10)
    x, target = np.float32(normal("x", SHAPE)), np.float32(normal("eps", SHAPE))
    condition = np.float32(np.eye(2, 10) * [[1], [0]])
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x, TIMES, condition))

    def loss(params):
        answer = net.apply(params, x, TIMES, condition)
        return jnp.mean((answer - target) ** 2), answer

    gradients, answer = jax.jit(jax.grad(loss, has_aux=True))(params)
    golden = values(read("parity_transformers")[name])
    ours = {"answer": np.asarray(answer)}
    for layer in golden.keys() - ours.keys():
        leaf = gradients
        for key in layer.split("/"):
            leaf = leaf[key]
        ours[layer] = np.asarray(leaf)
    found = {layer: np.array(value) for layer, value in numbers(ours).items()}
    assert difference(found, golden, relative=True) <= 1e-4
