"""PixelCNN++ against a few numbers that the authors' own code gave.

The recipe: images `recipes.images("x", shape)` with the labels 3 and 7 of ten, weights `tests.weights.drawn`, all in float32;
compared are the network's answer, the nats of each image and the gradients of their sum. Two images of 8x8x3, 8 channels, a
layer at each resolution, mixtures of two logistics, no dropout.

How the numbers were computed: `model_spec` of pixel_cnn_pp/model.py of openai/pixel-cnn and `discretized_mix_logistic_loss` of
nn.py beside it, in the version 1 mode of TensorFlow 2.21.0 (which has no `contrib` any more: its `arg_scope` was written out);
the commit stands in the golden. Every variable of theirs was set from ours of the same place: V, g and b from kernel, scale and
bias, a transposed convolution's V with its last two axes exchanged, hw from the labels' embedding.

All numbers differed from ours by at most 5.5e-7 (answer), 3.2e-7 (nats) and 7.4e-5 (gradients) of the largest. The network of
CIFAR-10 has 53,659,080 parameters there, and 53,863,880 where it is told one of ten classes.
"""

import jax
import numpy as np
import pytest

from gm_jax.nets.autoregressive import pixel_network
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.recipes import images
from tests.weights import count, drawn

SHAPE, LABELS = (2, 8, 8, 3), np.array([3, 7], np.int32)
SMALL = {"name": "pixelcnn_pp", "channels": 8, "num_layers": 1, "components": 2, "dropout": 0.0}


def test_answers_and_gradients_are_those_of_the_authors_code():
    net, x = pixel_network(SMALL, SHAPE[1:], num_classes=10), images("x", SHAPE)
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x, LABELS))

    def loss(params):
        answer = net.answer(params, x, LABELS)
        nats = -net.log_prob(params, answer, x).sum((1, 2))
        return nats.sum(), {"answer": answer, "nats": nats}

    with_gradients = jax.jit(jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    gradients, ours = with_gradients(params)
    golden = values(read("parity_pixelcnn")["PixelCNN++"])
    for layer in golden.keys() - ours.keys():
        leaf = gradients
        for key in layer.split("/"):
            leaf = leaf[key]
        ours[layer] = leaf
    found = {layer: np.array(value) for layer, value in numbers(ours).items()}
    assert difference(found, golden, relative=True) <= 1e-4


@pytest.mark.parametrize("num_classes, parameters", [(None, 53_659_080), (10, 53_863_880)])
def test_the_network_of_cifar10_has_the_parameters_of_the_authors_code(num_classes, parameters):
    net = pixel_network({"name": "pixelcnn_pp"}, (32, 32, 3), num_classes)
    labels = None if num_classes is None else LABELS
    assert count(jax.eval_shape(net.init, jax.random.key(0), np.zeros((2, 32, 32, 3), np.uint8), labels)) == parameters
