"""PixelCNN++ and gated PixelCNN: probabilities of all images sum to one, and what a model does with labels and known pixels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.build import build_model
from gm_jax.core import Batch, Variables
from gm_jax.errors import InputError
from gm_jax.images import to_float, to_uint8
from gm_jax.models.pixelcnn import filling_up
from tests.weights import drawn

NETWORKS = {
    "pixelcnn_pp": {"name": "pixelcnn_pp", "channels": 4, "num_layers": 1, "halvings": 0, "components": 3, "dropout": 0.0},
    "gated": {"name": "gated", "channels": 4, "num_layers": 1},
}
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def case(network, shape=(4, 4, 1), classes=None, spread=1.0):
    """A model, weights that nothing is left of at zero, and a batch of eight images."""
    settings = {"name": "pixelcnn", "network": NETWORKS[network], "class_conditional": classes is not None}
    model = build_model({"model": settings, "precision": "float32"}, shape, classes)
    x = to_float(np.random.default_rng(0).integers(0, 256, (8, *shape), dtype=np.uint8))
    batch = Batch(jnp.asarray(x), jnp.arange(8) % (classes or 1), jax.random.split(jax.random.key(1), 8))
    params = drawn(jax.eval_shape(model.init, jax.random.key(0), batch).params)
    return model, Variables(jax.tree.map(lambda a: spread * a, params)), batch


@pytest.mark.parametrize("classes", [None, 2])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_probabilities_of_all_images_of_two_pixels_sum_to_one(network, classes):
    model, variables, _ = case(network, (1, 2, 1), classes)
    [likelihood] = model.likelihoods
    assert (likelihood.name, likelihood.kind) == ("exact", "exact")
    images = np.stack(np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2, indexing="ij"), -1).reshape(65_536, 1, 2, 1)
    nats = quick_jit(likelihood.fn)(variables, None, images)
    probs = np.exp(-np.asarray(nats, np.float64))
    np.testing.assert_allclose(probs.sum(), 1, atol=1e-5)
    rows = probs.reshape(256, 256) / probs.reshape(256, 256).sum(1, keepdims=True)
    assert np.abs(rows - rows[:1]).max() > 1e-3 * rows.max()  # the second pixel heeds the first


@pytest.mark.parametrize("network", NETWORKS)
def test_the_loss_is_the_likelihood_in_nats_and_bits(network):
    model, variables, batch = case(network)
    [objective], [likelihood] = model.objectives, model.likelihoods
    value, (_, metrics) = quick_jit(partial(objective.loss, step=0, train=True))(*variables, jax.random.key(0), batch)
    nats = quick_jit(likelihood.fn)(variables, None, to_uint8(batch.x))
    np.testing.assert_allclose(value, nats.mean(), rtol=1e-5)
    assert metrics["nll"] == value and np.isclose(metrics["bits_per_dim"], value / (16 * np.log(2)))


@pytest.mark.parametrize("network", NETWORKS)
def test_without_labels_the_likelihood_is_the_mean_over_classes(network):
    model, variables, batch = case(network, classes=3)
    [likelihood] = model.likelihoods
    nats, images = quick_jit(likelihood.fn), to_uint8(batch.x)
    by_class = np.stack([nats(variables, None, images, jnp.full(8, label)) for label in range(3)])
    assert np.ptp(by_class, axis=0).min() > 1e-2
    np.testing.assert_allclose(nats(variables, None, images), -np.log(np.exp(-np.float64(by_class)).mean(0)), rtol=1e-5)


def test_samples_are_levels_and_a_trajectory_shows_them_filling_up():
    model, variables, batch = case("pixelcnn_pp")
    x = quick_jit(model.sample)(variables, batch.keys)
    np.testing.assert_allclose(x, to_float(to_uint8(x)), atol=1e-6)
    assert len(np.unique(x.reshape(8, -1), axis=0)) == 8 and model.nfe() == model.nfe(temperature=0.5) == 16
    frames = filling_up(x, 4)
    for i, frame in enumerate(frames):
        np.testing.assert_array_equal(frame[:, : i + 1], x[:, : i + 1])
        assert np.all(frame[:, i + 1 :] == -1)
    assert filling_up(x, 100).shape == (16, *x.shape)
    for call in (partial(model.sample, variables, batch.keys), model.nfe):
        with pytest.raises(InputError, match="temperature=0"):
            call(temperature=0)


def test_a_completion_without_labels_is_of_the_classes_that_what_is_known_speaks_for():
    model, variables, batch = case("pixelcnn_pp", classes=3, spread=1.5)
    [likelihood], known, n = model.likelihoods, np.ones((4, 4), bool), 3000
    x, keys = batch.x[:1].repeat(n, 0), jax.random.split(jax.random.key(2), n)
    known[-1, -1] = False  # the last pixel alone is missing: its distribution by brute force, over levels and classes
    images = np.asarray(to_uint8(batch.x[:1])).repeat(256, 0)
    images[:, -1, -1, 0] = np.arange(256)
    nats = quick_jit(likelihood.fn)(variables, None, images)
    expected = np.exp(-(nats - nats.min()).astype(np.float64))
    expected /= expected.sum()
    found = quick_jit(lambda keys, x: model.complete(variables, keys, x, known))(keys, x)
    np.testing.assert_array_equal(found[:, :3], x[:, :3])
    frequency = np.bincount(np.asarray(to_uint8(found))[:, -1, -1, 0], minlength=256) / n
    edges = np.searchsorted(expected.cumsum(), np.linspace(0, 1, 9)[1:-1])  # eight bins of about the same probability
    error = np.add.reduceat(frequency - expected, [0, *edges])
    np.testing.assert_array_less(np.abs(error), 4 * np.sqrt(0.2 / n))


def test_known_pixels_come_first_in_reading_order():
    model, variables, batch = case("gated")
    known = np.zeros((4, 4), bool)
    known[2:] = True
    for wrong, message in ((known, "reading order"), (known[:3], r"\[4, 4\]"), (known.astype(int), "truth values")):
        with pytest.raises(InputError, match=message):
            model.complete(variables, batch.keys, batch.x, wrong)
