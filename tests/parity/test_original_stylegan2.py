"""One step of either player of StyleGAN2, and the penalty, against a few numbers that the authors' networks gave.

The recipe: four images `recipes.normal("x", (4, 16, 16, 3))`, clipped to [-1, 1], with the labels 0 to 3, and the keys
`split(key(0), 4)`; 8 channels, weights `tests.weights.drawn`, but as they are initialised where the layer scales them; latents
and labels as the model draws them, without augmentation. Noise is `recipes.normal("noise LAYER", (side, side))`, the same for
all examples.

How the numbers were computed: Generator and Discriminator of training/networks.py of NVlabs/stylegan2-ada-pytorch in the
settings of its configuration "cifar", with channel_max=8 and without half precision, the losses and the penalty of
training/loss.py written out; the commit stands in the golden. Every parameter of theirs was set from ours of the same place.
DIFFERENCES"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, streams
from gm_jax.models import stylegan2
from gm_jax.nets import stylegan2 as nets
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.recipes import normal
from tests.weights import drawn, equalized

# each program runs once: what the compiler saves there is not worth its time
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPE, CLASSES = (16, 16, 3), 5
COMMON = {"latent_dim": 6, "channels": 8, "gamma": 0.5, "r1_every": 16, "augmentation": "none"}
CASES = {"StyleGAN2": COMMON, "StyleGAN2 of labels": COMMON | {"class_conditional": True}}
X = np.float32(np.clip(normal("x", (4, *SHAPE)), -1, 1))
BATCH = Batch(jnp.asarray(X), jnp.arange(4), jax.random.split(jax.random.key(0), 4))
KEPT = [
    "sample",
    "critic loss",
    "penalty loss",
    "generator loss",
    "critic/image/kernel",
    "critic/down0/kernel",
    "critic/last/kernel",
    "critic/score/kernel",
    "critic/mapping/layer3/kernel",
    "penalty of critic/conv1/kernel",
    "generator/mapping/layer0/kernel",
    "generator/mapping/label/kernel",
    "generator/synthesis/const",
    "generator/synthesis/conv1/kernel",
    "generator/synthesis/conv2/style/kernel",
    "generator/synthesis/conv3/noise",
    "generator/synthesis/image1/kernel",
]


def noise(layer, side):
    return np.float32(normal(f"noise {layer}", (side, side)))


@pytest.fixture(autouse=True)
def known_noise(monkeypatch):
    """The same for all examples, instead of that of their keys."""
    monkeypatch.setattr(nets.StyledConv, "noise_of", lambda self, keys, shape: noise_of(self.name, shape))


def noise_of(name, shape):
    return jnp.asarray(noise(int(name.removeprefix("conv")), shape[1]))[None, :, :, None]


def step_of(name):
    """(model, params, state) of a case."""
    model = stylegan2.make(SHAPE, CLASSES, **CASES[name])
    params, state = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    return model, equalized(drawn(params)), jax.tree.map(jnp.zeros_like, drawn(state))


def latents(name, phase):
    """What the model draws in a phase: z and labels."""
    z_keys, label_keys = streams(streams(BATCH.keys, phase)[0], "z", "label")
    z = jax.vmap(lambda key: jax.random.normal(key, (COMMON["latent_dim"],)))(z_keys)
    return np.asarray(z), np.asarray(jax.vmap(lambda key: jax.random.randint(key, (), 0, CLASSES))(label_keys))


def ours(name):
    """A sample, losses and all gradients, by their places."""
    model, params, state = step_of(name)
    (keys,) = streams(BATCH.keys, "critic's")
    found = {"sample": np.asarray(quick_jit(model.sample)(stylegan2.Variables(params, state), keys))}
    for objective in model.objectives:
        loss = functools.partial(objective.loss, step=0, train=True)
        (value, _), gradients = quick_jit(jax.value_and_grad(loss, has_aux=True))(params, state, None, BATCH)
        found[f"{objective.name} loss"] = np.asarray(value)
        prefix = "penalty of " if objective.name == "penalty" else ""
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients[objective.group]):
            found[prefix + "/".join([objective.group, *(key.key for key in path)])] = np.asarray(leaf)
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_sample_losses_and_gradients_are_those_of_the_authors_networks(name):
    golden, found = values(read("parity_stylegan2")[name]), ours(name)
    found = {key: np.array(value) for key, value in numbers({key: found[key] for key in golden}).items()}
    assert difference(found, golden, relative=True) <= 1e-4
