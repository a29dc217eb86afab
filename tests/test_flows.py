"""Flows as models: densities integrate to one, bounds are bounds, samples are numbers; and bad settings."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gm_jax.build import build_model
from gm_jax.core import Batch, Variables
from gm_jax.errors import InputError
from gm_jax.flows import dequantize, from_unit, to_unit
from gm_jax.images import to_float, to_uint8
from tests.weights import drawn

MLP = {"name": "mlp", "width": 16, "depth": 1}
POINTS = {
    "glow": {"name": "glow", "steps": 3, "network": MLP},
    "realnvp": {"name": "realnvp", "couplings": 4, "network": MLP},
    "maf": {"name": "maf", "layers": 3, "hidden": (16,)},
    "iaf": {"name": "maf", "layers": 2, "hidden": (16,), "direction": "iaf"},
}
IMAGES = {
    "glow": {"name": "glow", "levels": 2, "steps": 1, "network": {"name": "conv", "channels": 8}},
    "realnvp": {"name": "realnvp", "network": {"name": "resnet", "channels": 8, "num_blocks": 1}},
    "maf": {"name": "maf", "layers": 2, "hidden": (32,)},
}
KEYS = jax.random.split(jax.random.key(1), 8)
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def case(settings, shape, classes=None, spread=1.0):
    """A model, weights that nothing is left of at zero, and a batch of eight."""
    settings = settings | {"class_conditional": classes is not None}
    model = build_model({"model": settings, "precision": "float32"}, shape, classes)
    x = np.random.default_rng(0).uniform(-1, 1, (8, *shape)).astype(np.float32)
    batch = Batch(jnp.asarray(x), jnp.arange(8) % (classes or 1), KEYS)
    params = drawn(jax.eval_shape(model.init, jax.random.key(0), batch).params)
    return model, Variables(jax.tree.map(lambda a: spread * a, params)), batch


@pytest.mark.parametrize("classes", [None, 3])
@pytest.mark.parametrize("name", POINTS)
def test_densities_of_the_plane_integrate_to_one_and_are_those_of_the_samples(name, classes):
    model, variables, _ = case(POINTS[name], (2,), classes, spread=0.4)
    [likelihood], side = model.likelihoods, np.linspace(-12, 12, 401, dtype=np.float32)
    assert (likelihood.name, likelihood.kind) == ("exact", "exact")
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(-np.asarray(jax.jit(likelihood.fn)(variables, None, grid), np.float64)) * (side[1] - side[0]) ** 2
    np.testing.assert_allclose(density.sum(), 1, atol=1e-3)

    x = jax.jit(model.sample)(variables, jax.random.split(jax.random.key(2), 4000))
    for axis in range(2):  # each coordinate against its exact distribution function
        exact = density.reshape(401, 401).sum(1 - axis).cumsum()
        edges = side + (side[1] - side[0]) / 2
        found = stats.kstest(x[:, axis], lambda value: np.interp(value, edges, exact))  # noqa: B023
        assert found.pvalue > 1e-3


def test_the_probabilities_of_all_images_of_two_pixels_sum_to_one():
    """The mean over u of exp(-nats) is the probability of an image itself, and alpha leaves next to nothing beyond [0, 1]."""
    model, variables, _ = case(IMAGES["maf"] | {"alpha": 1e-6}, (1, 2, 1))
    [likelihood] = model.likelihoods
    assert (likelihood.name, likelihood.kind) == ("dequantized", "bound")
    images = np.stack(np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2, indexing="ij"), -1).reshape(65_536, 1, 2, 1)
    nats = jax.jit(likelihood.fn)(variables, jax.random.split(jax.random.key(0), len(images)), images)
    np.testing.assert_allclose(np.exp(-np.asarray(nats, np.float64)).sum(), 1, atol=2e-2)


@pytest.mark.parametrize("name", IMAGES)
def test_more_draws_make_the_bound_tighter_and_one_is_the_loss(name):
    model, variables, batch = case(IMAGES[name], (4, 4, 1))
    [likelihood], images = model.likelihoods, np.asarray(to_uint8(batch.x)).repeat(50, 0)
    one, many = (
        quick_jit(partial(likelihood.fn, samples=samples))(variables, jax.random.split(jax.random.key(0), 400), images)
        for samples in (1, 20)
    )
    assert one.mean() > many.mean() and one.reshape(8, 50).std(1).mean() > 2 * many.reshape(8, 50).std(1).mean()
    [objective] = model.objectives
    loss = quick_jit(jax.vmap(lambda keys: objective.loss(*variables, None, batch._replace(keys=keys), step=0, train=True)))
    value, (_, metrics) = loss(jax.random.split(jax.random.key(3), (50, 8)))
    assert abs(value.mean() - one.mean()) < 4 * np.hypot(value.std() / 50**0.5, one.reshape(8, 50).mean(0).std() / 50**0.5)
    np.testing.assert_allclose(metrics["bits_per_dim"], value / (16 * np.log(2)), rtol=1e-5)
    np.testing.assert_allclose(value, 16 * np.log(256) - metrics["log_prior"] - metrics["log_det"], rtol=1e-4)


@pytest.mark.parametrize("name", IMAGES)
def test_without_labels_the_likelihood_is_the_mean_over_classes(name):
    model, variables, batch = case(IMAGES[name], (4, 4, 1), classes=3)
    [likelihood], images = model.likelihoods, to_uint8(batch.x)
    nats = quick_jit(likelihood.fn)
    by_class = np.stack([nats(variables, KEYS, images, jnp.full(8, label)) for label in range(3)])
    assert np.ptp(by_class, axis=0).min() > 1e-2
    expected = -np.logaddexp.reduce(-np.float64(by_class), axis=0) + np.log(3)
    np.testing.assert_allclose(nats(variables, KEYS, images), expected, rtol=1e-5)


@pytest.mark.parametrize("name", IMAGES)
def test_samples_are_numbers_whatever_the_weights(name):
    """Here so large that the inverse without bounds overflows, which it does far from the data in training, too."""
    model, variables, _ = case(IMAGES[name], (4, 4, 1), spread=30.0)
    z = 10.0 * jax.random.normal(jax.random.key(0), (8, 16))
    for x in (quick_jit(model.sample)(variables, KEYS), quick_jit(model.decode)(variables, KEYS, z)):
        assert np.isfinite(x).all() and np.abs(x).max() <= 1


def test_temperature_is_the_spread_of_the_latents():
    model, variables, _ = case(POINTS["realnvp"], (2,))
    cold, mean = (quick_jit(partial(model.sample, temperature=t))(variables, KEYS) for t in (0.5, 0.0))
    z = [model.encode(variables, KEYS, x) for x in (cold, model.sample(variables, KEYS))]
    np.testing.assert_allclose(z[0], 0.5 * z[1], atol=1e-4)
    np.testing.assert_allclose(mean, mean[:1].repeat(8, 0), atol=1e-6)


def test_levels_lie_in_the_middle_of_their_cells():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 256)
    y = dequantize(KEYS[:1], levels)
    np.testing.assert_array_equal(np.floor(256 * y), levels)
    np.testing.assert_allclose(to_unit(to_float(levels)), (levels + 0.5) / 256, atol=1e-7)
    np.testing.assert_array_equal(to_uint8(from_unit(y)), levels)


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (IMAGES["glow"] | {"levels": 3}, (4, 4, 1), "4x4 cannot be halved 3 times"),
        (IMAGES["realnvp"] | {"scales": 4}, (4, 4, 1), "4x4 cannot be halved 3 times"),
        (IMAGES["realnvp"] | {"alpha": 0.5}, (4, 4, 1), "alpha=0.5 must be below"),
        (IMAGES["maf"] | {"alpha": 0.5}, (4, 4, 1), "alpha=0.5 must be below"),
        (IMAGES["maf"] | {"hidden": ()}, (4, 4, 1), "hidden has no width"),
        (IMAGES["maf"] | {"class_conditional": True}, (4, 4, 1), "class_conditional=True needs labels"),
        (POINTS["glow"] | {"network": {"name": "conv"}}, (2,), "conv is for images"),
        (POINTS["realnvp"] | {"network": {"name": "resnet"}}, (2,), "resnet is for images"),
        (POINTS["realnvp"], (4, 4, 1), "mlp of a flow is for points"),
    ],
)
def test_what_does_not_fit_is_said(settings, shape, message):
    with pytest.raises(InputError, match=message):
        build_model({"model": settings, "precision": "float32"}, shape, None)


def test_a_temperature_below_zero_is_refused():
    model, variables, _ = case(POINTS["maf"], (2,))
    for call in (partial(model.sample, variables, KEYS), model.nfe):
        with pytest.raises(InputError, match="temperature=-1"):
            call(temperature=-1.0)
    assert model.nfe() == 2 and case(POINTS["iaf"], (2,))[0].nfe() == case(POINTS["glow"], (2,))[0].nfe() == 1
