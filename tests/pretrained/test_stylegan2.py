"""StyleGAN2-ADA's pickles: every tensor used once, and images and scores as the authors' networks gave them.

files/stylegan2.json has the names and shapes of Generator and Discriminator of training/networks.py of
NVlabs/stylegan2-ada-pytorch (commit d72cc7d) in the settings of its configuration "cifar", at full size and small (8 channels,
16x16). The answers are of the small ones: weights by `recipe`, strengths of noise zero, images of z = normal("z", [3, 6]) at a
truncation of 0.7 without noise, scores of normal("x", [3, 16, 16, 3]), with the labels 3, 0 and 4.
"""

import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.build import build_model, resolve
from gm_jax.core import Batch
from gm_jax.errors import InputError
from gm_jax.pretrained.formats import Content
from gm_jax.pretrained.loading import understand
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.start import abstract_state
from tests.parity.recipes import normal

FILE = json.loads((Path(__file__).parent / "files/stylegan2.json").read_text())
LABELS = jnp.array([3, 0, 4])


def recipe(name, shape):
    """Standard normal weights, as the layers scale them; of a mapping's layers a hundred times that; 0.1 n of all else."""
    n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    scale = 100.0 if "mapping.fc" in name and len(shape) > 1 else 1.0 if len(shape) > 1 else 0.1
    return np.asarray(scale * n + ("affine.bias" in name), np.float32)


def content_of(tensors):
    players = {}
    for name, tensor in tensors.items():
        player, _, rest = name.partition(".")
        players.setdefault(player, {})[rest] = tensor
    tree = {"G_ema": {"_parameters": players["generator"]}, "D": {"_parameters": players["critic"]}, "G": None}
    return Content(tree, {}, Path("file"))


def imported(content):
    checkpoint = understand(content)
    config = resolve(checkpoint.config)
    model = build_model(config, checkpoint.image_shape, checkpoint.num_classes)
    optimizers = build_optimizers(config, model)
    abstract = abstract_state(model, optimizers, checkpoint.image_shape, checkpoint.num_classes)
    return checkpoint, model, checkpoint.variables(abstract)


@pytest.mark.parametrize("case", FILE["full"])
def test_a_published_file_fills_both_players_and_is_the_preset(case):
    shapes = FILE["full"][case]
    checkpoint, _, (params, state) = imported(
        content_of({name: np.broadcast_to(np.float32(0), s) for name, s in shapes.items()})
    )
    theirs = sum(int(np.prod(shape)) for shape in shapes.values())
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) + state["generator"]["w_mean"].size == theirs
    conditional = case.endswith("conditional")
    assert (checkpoint.image_shape, checkpoint.num_classes) == ((32, 32, 3), 10 if conditional else None)
    assert checkpoint.config["model"] == {"name": "stylegan2"} | ({"class_conditional": True} if conditional else {})


@pytest.mark.parametrize("case", FILE["small"])
def test_an_imported_generator_and_critic_answer_as_their_authors(case):
    golden = FILE["small"][case]
    tensors = {name: recipe(name, tuple(shape)) for name, shape in golden["shapes"].items()}
    tensors |= {name: np.zeros_like(t) for name, t in tensors.items() if name.endswith("noise_strength")}
    _, model, variables = imported(content_of(tensors))
    labels = None if model.num_classes is None else LABELS
    image, scores = answers(model, variables, labels)
    found = [np.sqrt((image**2).mean()), *np.ravel(image)[::301][:7]]
    np.testing.assert_allclose(found, golden["image"], rtol=0, atol=1e-4 * max(np.abs(golden["image"])))
    np.testing.assert_allclose(scores, golden["scores"], rtol=0, atol=1e-4 * max(np.abs(golden["scores"])))


def answers(model, variables, labels):
    """The images of known z at a truncation of 0.7; and the scores of known images, from the critic's own loss."""
    from gm_jax.nets.stylegan2 import Discriminator, Mapping, Synthesis

    generator, critic = variables.params["generator"], variables.params["critic"]
    classes, z = model.num_classes, np.float32(normal("z", (3, 6)))
    w = Mapping(8, 2, classes).apply({"params": generator["mapping"]}, z, labels)
    mean = variables.state["generator"]["w_mean"]
    ws = jnp.repeat((mean + 0.7 * (w - mean))[:, None], 6, axis=1)
    image = Synthesis((16, 16, 3), 8).apply({"params": generator["synthesis"]}, ws, None)
    x = np.float32(normal("x", (3, 16, 16, 3)))
    return np.asarray(image), np.asarray(Discriminator(8, classes).apply({"params": critic}, x, labels))


def test_what_was_imported_can_be_drawn_and_trained():
    tensors = {name: recipe(name, tuple(shape)) for name, shape in FILE["small"]["unconditional"]["shapes"].items()}
    _, model, variables = imported(content_of(tensors))
    keys = jax.random.split(jax.random.key(0), 2)
    assert jax.eval_shape(model.sample, variables, keys).shape == (2, 16, 16, 3)
    batch = Batch(jnp.zeros((2, 16, 16, 3)), None, keys)
    shapes = jax.eval_shape(model.init, keys[0], batch)
    assert jax.tree.structure(shapes.state) == jax.tree.structure(variables.state)


def test_other_forms_of_the_networks_are_refused():
    shapes = dict(FILE["small"]["unconditional"]["shapes"])
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(InputError, match="without skips"):
        understand(content_of(tensors | {"critic.b16.skip.weight": np.zeros((8, 8, 1, 1))}))
    with pytest.raises(InputError, match="superfluous: critic.b16.extra;"[:-1]):
        imported(content_of(tensors | {"critic.b16.extra": np.zeros(3)}))
