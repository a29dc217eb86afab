"""R3GAN's networks against a few numbers that the authors' own PyTorch networks gave.

The recipe: weights `tests.weights.drawn`; the latents of two examples `recipes.normal("z", (2, 8))`, images and targets
`recipes.normal("x", SHAPE)` and `recipes.normal("eps", SHAPE)`, labels 7 and 2 of ten, or none; all in float32. Compared are
the answers and gradients of the mean squared error (generator) and of the mean of score^2 / 2 + |gradient of the score in
x|^2 / 2 (discriminator), so that second derivatives are, too. Images of 16x16x3, 16 channels, two blocks a stage, 32 channels
in 4 groups, a class embedding of 4 numbers.

How the numbers were computed: `Generator` and `Discriminator` of R3GAN/Networks.py of brownvc/R3GAN, whose commit stands in the
golden, on a CPU. Every parameter of theirs was set from ours of the same place.

All numbers differed from ours by at most 8.5e-7 (answers) and 2.2e-6 (gradients) of the largest; the answers
of the paper's networks, with labels, by 2.3e-6. On one machine a gradient differed by 1.1e-4, hence their
bound; a leaky ReLU whose slope is wrong by a thousandth exceeds it 24 times, and the bound of answers 13 times.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.nets.r3gan import Discriminator, Generator
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.recipes import normal
from tests.weights import drawn

SIZES = {"channels": 16, "groups": 4}
SHAPE = (2, 16, 16, 3)
Z, X, TARGET = (np.float32(normal(*a)) for a in [("z", (2, 8)), ("x", SHAPE), ("eps", SHAPE)])


def generator(labels):
    net = Generator(SHAPE[1:], None if labels is None else 10, class_features=4, **SIZES)

    def loss(params):
        answer = net.apply(params, Z, labels)
        return jnp.mean((answer - TARGET) ** 2), answer

    return net, Z, loss


def discriminator(labels):
    net = Discriminator(None if labels is None else 10, **SIZES)

    def loss(params):
        slope = jax.grad(lambda x: net.apply(params, x, labels).sum())(X)
        answer = net.apply(params, X, labels)
        return jnp.mean(answer**2 + (slope**2).sum((1, 2, 3))) / 2, answer

    return net, X, loss


NETWORKS = {"generator": generator, "discriminator": discriminator}


def ours(name):
    """Layer -> its gradient, and the answer."""
    network, _, conditional = name.partition(" with ")
    labels = jnp.array([7, 2]) if conditional else None
    net, x, loss = NETWORKS[network](labels)
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x, labels))
    gradients, answer = jax.jit(jax.grad(loss, has_aux=True))(params)
    found = {"/".join(key.key for key in path[1:]): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
    return {layer: np.asarray(a) for layer, a in (found | {"answer": answer}).items()}


@pytest.mark.parametrize("name", [f"{network}{labels}" for network in NETWORKS for labels in ("", " with labels")])
def test_answers_and_gradients_are_those_of_the_authors_networks(name):
    golden, found = values(read("parity_r3gan")[name]), ours(name)
    found = values({"values": numbers({key: found[key] for key in golden})})
    assert difference({"answer": found["answer"]}, {"answer": golden["answer"]}, relative=True) <= 1e-5
    assert difference(found, golden, relative=True) <= 5e-4
