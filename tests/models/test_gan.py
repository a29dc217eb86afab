"""The choices of models/gan.py: what they make of the game, and its warnings, each provoked."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.build import build_model, resolve
from gm_jax.cli.config import find_config, load_config
from gm_jax.core import Batch
from gm_jax.data.sources import load as load_data
from gm_jax.errors import InputError
from gm_jax.experiment import load, train
from gm_jax.models import gan
from gm_jax.training.records import read_log
from tests.weights import count

# each program runs once or twice: what the compiler saves there is not worth its time
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = {
    "name": "resnet",
    "generator_channels": 8,
    "generator_blocks": 1,
    "critic_channels": 8,
    "critic_blocks": 2,
    "critic_halvings": 1,
}
SHAPE = (8, 8, 1)
BATCH = Batch(
    jax.random.uniform(jax.random.key(0), (8, *SHAPE), minval=-1), jnp.arange(8) % 3, jax.random.split(jax.random.key(1), 8)
)


def abstract(preset):
    config = resolve(load_config(find_config("gan"), preset))
    model = build_model(config, (32, 32, 3), 10)
    batch = Batch(jnp.zeros((2, 32, 32, 3)), jnp.zeros(2, int), jax.random.split(jax.random.key(0), 2))
    params = jax.eval_shape(model.init, jax.random.key(0), batch).params
    return count(params["generator"]), count(params["critic"])


@pytest.mark.parametrize(
    ("preset", "counts"),
    [
        ("cifar10", (4_276_739, 1_053_825)),
        ("cifar10_conditional", (4_304_387, 1_055_105)),
        ("cifar10_biggan", (4_304_387, 4_207_361)),
        ("cifar10_wgan_gp", (1_204_483, 1_053_825)),
        ("cifar10_dcgan", (3_813_379, 5_864_449)),
    ],
)
def test_the_papers_networks_have_the_sizes_of_the_official_code(preset, counts):
    assert abstract(preset) == counts


@pytest.mark.parametrize("norm", ["none", "layer", "spectral"])
def test_a_score_looks_at_one_image_alone(norm):
    model = gan.make(SHAPE, network=SMALL, critic_norm=norm, latent_dim=4)
    variables = model.init(jax.random.key(2), BATCH)
    loss = lambda batch: model.objectives[0].loss(*variables, None, batch, step=0, train=True)[1][1]["real"]  # noqa: E731
    halves = [loss(jax.tree.map(lambda a, part=part: a[part], BATCH)) for part in (slice(4), slice(4, 8))]
    assert float(loss(BATCH)) == pytest.approx(float(np.mean(halves)), rel=1e-4)


@pytest.mark.parametrize("conditioning", ["projection", "concatenation"])
def test_both_players_see_the_label(conditioning):
    settings = {"network": SMALL, "latent_dim": 4, "class_conditional": True, "conditioning": conditioning}
    model = gan.make(SHAPE, 3, **settings)
    variables = model.init(jax.random.key(2), BATCH)
    generator = variables.params["generator"]
    if conditioning == "projection":  # all classes begin alike
        generator["block0_norm1"]["shift"]["embedding"] = jax.random.normal(jax.random.key(3), (3, 8))
    one, two = (model.sample(variables, BATCH.keys, jnp.full(8, label)) for label in (0, 1))
    assert float(jnp.abs(one - two).max()) > 1e-3
    scores = [
        model.objectives[0].loss(*variables, None, BATCH._replace(labels=jnp.full(8, label)), step=0, train=False)[1][1]["real"]
        for label in (0, 1)
    ]
    assert scores[0] != scores[1]


def test_noise_of_dequantization_is_one_level_wide():
    noise = 127.5 * np.asarray(gan.dequantized(BATCH.keys, jnp.zeros((8, 64, 64, 3))))
    assert noise.min() == pytest.approx(-0.5, abs=1e-3) and noise.max() == pytest.approx(0.5, abs=1e-3)
    assert noise.mean() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"critic_norm": "batch", "penalty": "r1"}, "critic_norm=layer"),
        ({"loss": "relativistic"}, "generator_batch=1"),
        ({"real_target": 0.9}, "real_target"),
        ({"class_conditional": True}, "labels"),
        ({"network": {**SMALL, "generator_blocks": 4}}, "cannot be halved 4 times"),
        ({"network": {**SMALL, "critic_halvings": 3}}, "critic_halvings=3"),
    ],
)
def test_what_does_not_go_together_is_one_line(settings, words):
    with pytest.raises(InputError, match=words):
        gan.make(SHAPE, **{"network": SMALL, **settings})


# --- seeing them fail ---------------------------------------------------------------------------------------------------------


def trained(tmp_path, **model):
    """A short run on `ring`; what it was warned of."""
    config = load_config(find_config("gan"), "ring")
    rates = {name: model.pop(name) for name in ("critic", "generator") if name in model}
    config["model"] |= model
    for name, fields in rates.items():
        config["optimizer"][name] = {**config["optimizer"].get(name, {}), **fields}
    config["train"] |= {"steps": 160, "batch_size": 64, "log_every": 40, "heldout_every": 0, "sample_every": 0}
    train(config, tmp_path, load_data("ring"), quiet=True)
    return " ".join(line for entry in read_log(tmp_path) for line in entry.get("warnings", []))


def test_a_critic_that_wins_is_warned_of(tmp_path):
    """The generator hardly moves, so that the critic soon tells all its points."""
    rates = {"critic": {"learning_rate": 0.02, "b1": 0.9}, "generator": {"learning_rate": 1e-7}}
    assert "the critic has won" in trained(tmp_path, loss="minimax", **rates)


def test_a_gradient_that_vanishes_is_warned_of(tmp_path):
    """Weights that are clipped at almost nothing shrink it at every layer (Gulrajani et al. 2017, figure 1b)."""
    assert "gradient has vanished" in trained(tmp_path, loss="wasserstein", critic={"weight_clip": 0.01})


def test_samples_that_become_one_are_warned_of(tmp_path):
    """A weight clip of the generator at almost nothing lets it make but one point."""
    assert "samples have become one" in trained(tmp_path, generator={"weight_clip": 1e-3})


def test_a_game_in_balance_is_not_warned_of_and_learns(tmp_path):
    warned = trained(tmp_path, loss="relativistic", penalty="r1_r2", penalty_weight=0.1)
    assert warned == ""
    model, variables = load(tmp_path)
    x = model.sample(variables, jax.random.split(jax.random.key(0), 500))
    assert 0.5 < float(x.std()) < 3  # as the ring's, from about 0.1 at the start


# --- many devices -------------------------------------------------------------------------------------------------------------


def test_the_batch_norm_of_all_devices_is_one():
    """Two halves that see each other through an axis have the losses and statistics of the whole."""
    whole, split = (
        gan.make(SHAPE, network=SMALL, latent_dim=4, generator_batch=1, axis_name=axis) for axis in (None, "devices")
    )
    params, state = whole.init(jax.random.key(2), BATCH)
    halves = jax.tree.map(lambda a: a.reshape(2, 4, *a.shape[1:]), BATCH)
    for i in range(2):
        loss, other = (partial(model.objectives[i].loss, params, state, None, step=0, train=True) for model in (whole, split))
        value, (new_state, _) = quick_jit(loss)(BATCH)
        values, (new_states, _) = quick_jit(jax.vmap(other, axis_name="devices"))(halves)
        assert float(values.mean()) == pytest.approx(float(value), rel=1e-4)
        for one, all_of_them in zip(jax.tree.leaves(new_state), jax.tree.leaves(new_states), strict=True):
            np.testing.assert_allclose(all_of_them, jnp.stack([one, one]), rtol=1e-4, atol=1e-6)
