"""VDVAE against a few numbers that the authors' own PyTorch code gave.

The recipe: images `recipes.images("x", SHAPE)`, noise `recipes.normal("noise", (2, latents))`, a part for each group,
weights `tests.weights.drawn`, but the last layer's kernel a tenth of that; all in float32. Compared are the network's answer,
distortion and rate of each image a pixel and channel, and the gradients of the sum of their means. Images of 8x8x3, four
resolutions, five groups of 4 latents a place, 16 channels, mixtures of three logistics.

How the numbers were computed: `VAE` of vae.py of openai/vdvae, whose commit stands in the golden, in float64 on a CPU, with the
layers "8x2,8d2,4x1,4d2,2d2,1x1" and "1x1,2m1,4m2,4x1,8m4", and with the noise in the place of what it draws. Every parameter of
theirs was set from ours of the same place.

All numbers differed from ours by at most 1.9e-07 (answer), 1.8e-07 (loss, distortion, rate) and 1.4e-06 (gradients) of the
largest, and what the latents decode to by 1.8e-07. Where a level has a probability below 1e-5, their mixture takes the
density in the middle of its bin; ours is exact. With the last layer's kernel as drawn, that is with narrow logistics, such
levels alter the loss by 7.3e-06, and the gradients by up to 2.2e-03 of the largest.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.models.vdvae import distortion, rate
from gm_jax.nets.vdvae_nets import VDVAENetwork
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.recipes import images, normal
from tests.weights import drawn

SHAPE = (2, 8, 8, 3)
NET = VDVAENetwork(30, (8, 4, 2, 1), (3, 2, 1, 1), (1, 2, 1, 1), 16, 8, 4, 120.63838 / 127.5 - 1, 64.16736 / 127.5)


def ours():
    """Layer -> its gradient; and what the loss is made of."""
    levels, noise = images("x", SHAPE), np.float32(normal("noise", (2, NET.latents)))
    x = jnp.asarray(levels, jnp.float32) / 127.5 - 1
    params = drawn(jax.eval_shape(NET.init, jax.random.key(0), noise, x)["params"])
    params["pixels"]["kernel"] *= 0.1

    def loss(params):
        answer, posterior = NET.apply({"params": params}, noise, x)
        found = {"distortion": distortion(answer, jnp.asarray(levels)) / 192, "rate": rate(posterior) / 192}
        return found["distortion"].mean() + found["rate"].mean(), found | {"answer": answer}

    with_gradients = jax.jit(jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})
    gradients, found = with_gradients(params)
    leaves = jax.tree_util.tree_leaves_with_path(gradients)
    found |= {"/".join(key.key for key in path): leaf for path, leaf in leaves}
    return {name: np.asarray(a) for name, a in found.items()}


def test_answers_and_gradients_are_those_of_the_authors_code():
    golden, found = values(read("parity_vdvae")["VDVAE"]), ours()
    assert difference(values({"values": numbers({key: found[key] for key in golden})}), golden, relative=True) <= 1e-4
