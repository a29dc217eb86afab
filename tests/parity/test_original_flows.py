"""Glow against a few numbers that the authors' own code gave, and MAF against those of TensorFlow Probability.

The recipe: weights `tests.weights.drawn`, all in float32; compared are the nats of each example without the constant of the
levels, the latents or a sample, and the gradients of the sum of the nats.

Glow: two levels of two steps, 8 channels, the labels 3 and 7 of ten, (recipes.images("x", (2, 8, 8, 3)) + u) / 256 with u from
`numpy.random.default_rng(0).uniform`. MAF: two layers with two hidden layers of 8 units, three points
`recipes.normal("x", (3, 5))`; the sample is of the latents `recipes.normal("z", (3, 5))`.

How the numbers were computed: `codec` and `prior` of openai/glow's model.py in the version 1 mode of TensorFlow 2.21.0 (of
`contrib` only `arg_scope` is used, which tf_slim has), every variable of theirs set from ours: W of a 1x1 convolution is the
transpose of P L (U + diag(s)), and the prior's channels are means first, then log scales. `AutoregressiveNetwork` in
`MaskedAutoregressiveFlow` of TensorFlow Probability 0.25.0, its kernels set to ours times our masks, which are its own.

All numbers differed from ours by at most 8.2e-7 (Glow) and 4.3e-7 (MAF) of the largest. Glow of CIFAR-10 has 44,603,604
parameters there, of which 82,944 are multiplied by zeros for ever: kernels of the prior, which convolves zeros and a frame.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax import flows
from gm_jax.build import build_model, resolve
from gm_jax.core import Batch
from gm_jax.models import glow, maf
from gm_jax.nets.couplings import coupling_network
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.recipes import images, normal
from tests.weights import count, drawn

UNUSED = 3 * 3 * 96 * 96


def differs(flow, x, condition, golden, inverse_of=None) -> float:
    """What a flow gives of x, its gradients and a sample: the largest difference to the golden, relative."""
    params = drawn(jax.eval_shape(flow.init, jax.random.key(0), x, condition))

    def loss(params):
        nats = -sum(flows.log_prob(flow, params, x, condition))
        return nats.sum(), {"nats": nats, "z": flow.forward(params, x, condition)[0]}

    with_gradients = jax.jit(jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    gradients, ours = with_gradients(params)
    if inverse_of is not None:
        ours = {"nats": ours["nats"], "sample": flow.inverse(params, inverse_of)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        ours["/".join(key.key for key in path)] = leaf
    return difference({name: np.array(value) for name, value in numbers(ours).items()}, values(golden), relative=True)


def test_glow_gives_the_nats_latents_and_gradients_of_the_authors_code():
    y = (images("x", (2, 8, 8, 3)) + np.random.default_rng(0).uniform(size=(2, 8, 8, 3)).astype(np.float32)) / 256
    net = coupling_network({"name": "conv", "channels": 8}, (8, 8, 3))
    labels = jax.nn.one_hot(np.array([3, 7]), 10)
    flow = glow.bijector((8, 8, 3), net, levels=2, steps=2)
    assert differs(flow, jnp.asarray(y, jnp.float32), labels, read("parity_flows")["Glow"]) <= 1e-4


def test_maf_gives_the_nats_samples_and_gradients_of_tensorflow_probability():
    x, z = (jnp.asarray(normal(name, (3, 5)), jnp.float32) for name in ("x", "z"))
    assert differs(maf.bijector((5,), 2, (8, 8)), x, None, read("parity_flows")["MAF"], inverse_of=z) <= 1e-4


def test_glow_of_cifar10_has_the_parameters_of_the_authors_code():
    model = build_model(resolve({"model": {"name": "glow"}}), (32, 32, 3), None)
    batch = Batch(jnp.zeros((2, 32, 32, 3)), None, jax.random.split(jax.random.key(0), 2))
    assert count(jax.eval_shape(model.init, jax.random.key(0), batch).params) + UNUSED == 44_603_604
