"""One step of either player of BigGAN, SN-GAN and WGAN-GP against a few numbers that PyTorch networks of others gave.

The recipe: four images `recipes.normal("x", (4, 32, 32, 3))`, clipped to [-1, 1], with the labels 0 to 3 of ten, and the
keys `split(key(0), 4)`; weights `tests.weights.drawn`, the vectors of spectral norms settled (numpy's svd); latents and labels
as the model draws them from the keys. Compared are the losses, the penalty and a few gradients of both players in training.

How the numbers were computed: "BigGAN": Generator and Discriminator of BigGAN.py of ajbrock/BigGAN-PyTorch with 8 channels, and
the hinge loss of its losses.py. "SN-GAN": Generator32 and Discriminator32 of source/models/sngan.py, "WGAN-GP": ResGenerator32
and ResDiscriminator32 of source/models/wgangp.py and the penalty of wgangp.py of w86763777/pytorch-gan-collections, with a
sixteenth of their channels; the commits stand in the golden. Every parameter of theirs was set from ours of the same place.

Losses and penalty differed from ours by at most 2e-7, gradients by 3.4e-6 of the largest (biases in front of a BatchNorm have
none). Parameters of the full networks were counted in the same code: see tests/models/test_gan.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, streams
from gm_jax.models import gan
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.recipes import normal
from tests.weights import drawn

# each program runs once: what the compiler saves there is not worth its time
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SHAPE, LATENT = (32, 32, 3), 6
SMALL = {"generator_channels": 8, "critic_channels": 8}
CASES = {
    "BigGAN": {
        "network": {"name": "resnet", **SMALL},
        "generator_spectral": True,
        "class_conditional": True,
        "generator_batch": 1,
    },
    "SN-GAN": {"network": {"name": "dcgan", "generator_channels": 4, "critic_channels": 4}, "generator_batch": 1},
    "WGAN-GP": {
        "network": {"name": "resnet", **SMALL},
        "loss": "wasserstein",
        "critic_norm": "none",
        "penalty": "gradient_penalty",
        "penalty_weight": 10.0,
        "generator_batch": 1,
    },
}
X = np.float32(np.clip(normal("x", (4, *SHAPE)), -1, 1))
BATCH = Batch(jnp.asarray(X), jnp.arange(4), jax.random.split(jax.random.key(0), 4))


def settled(params, vectors):
    """The right singular vector of each kernel that has a vector."""
    found = {}
    for name in vectors:
        kernel = np.float64(functools.reduce(dict.get, name.split("/"), params))
        found[name] = jnp.float32(np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), full_matrices=False)[2][0])
    return found


def step_of(name):
    """(model, params, state) of a case."""
    model = gan.make(SHAPE, 10, latent_dim=LATENT, **CASES[name])
    params, state = jax.eval_shape(model.init, jax.random.key(0), BATCH)
    params, state = drawn(params), jax.tree.map(jnp.zeros_like, drawn(state))
    for player in ("generator", "critic"):
        state[player]["vectors"] = settled(params[player], state[player]["vectors"])
    return model, params, state


def latents(player):
    """What the model draws for an update of a player: z and labels."""
    (keys,) = streams(BATCH.keys, {"critic": "critic's", "generator": "generator's 0"}[player])
    z_keys, label_keys = streams(keys, "z", "label")
    z = jax.vmap(lambda key: jax.random.normal(key, (LATENT,)))(z_keys)
    return np.asarray(z), np.asarray(jax.vmap(lambda key: jax.random.randint(key, (), 0, 10))(label_keys))


def ours(name):
    """Losses, the penalty and all gradients, by their places."""
    model, params, state = step_of(name)
    found = {}
    for objective in model.objectives:
        loss = functools.partial(objective.loss, step=0, train=True)
        (value, (_, metrics)), gradients = quick_jit(jax.value_and_grad(loss, has_aux=True))(params, state, None, BATCH)
        found[f"{objective.name} loss"] = np.asarray(value)
        if "penalty" in metrics:
            found["penalty"] = np.asarray(metrics["penalty"])
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients[objective.group]):
            found["/".join([objective.group, *(key.key for key in path)])] = np.asarray(leaf)
    return found


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_other_peoples_players(name):
    golden, found = values(read("parity_gans")[name]), ours(name)
    found = {key: np.array(value) for key, value in numbers({key: found[key] for key in golden}).items()}
    assert difference(found, golden, relative=True) <= 1e-4
