"""VDM: its bound against closed forms, and what the schedule of noise does to it."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gm_jax.core import Batch, Network
from gm_jax.densities import gaussian_log_prob
from gm_jax.diffusion import paths
from gm_jax.errors import InputError
from gm_jax.models import vdm
from tests.parity.recipes import images, normal
from tests.weights import count, drawn
from tests.x64 import x64

ENDS = jnp.array([-8.0, 5.0])
MEAN, STD, N = 0.2, 0.6, 4000
X = MEAN + STD * jax.random.normal(jax.random.key(0), (N, 2))
EPS = jax.random.normal(jax.random.key(1), (N, 2))
U = (jax.random.uniform(jax.random.key(2)) + jnp.arange(N) / N) % 1.0
WEIGHTS = jax.tree.map(lambda a: 40 * a, drawn(jax.eval_shape(vdm.init_monotone, jax.random.key(0))))


def predict(z, gamma):
    """E[eps | z] of Gaussian data."""
    alpha, sigma = (jnp.sqrt(jax.nn.sigmoid(sign * gamma))[:, None] for sign in (-1, 1))
    return sigma * (z - alpha * MEAN) / ((alpha * STD) ** 2 + sigma**2)


def of(weights, **options):
    return vdm.diffusion_nats(predict, partial(vdm.schedule, ENDS, weights), X, EPS, U, **options)


# --- the schedule -------------------------------------------------------------------------------------------------------------


def test_a_schedule_rises_from_one_end_to_the_other():
    u = jnp.linspace(0, 1, 101)
    for weights in (None, WEIGHTS):
        gamma = vdm.schedule(ENDS, weights, u)
        np.testing.assert_allclose(gamma[jnp.array([0, -1])], ENDS, rtol=1e-5)
        assert (jnp.diff(gamma) > 0).all()
    assert jnp.abs(gamma - vdm.schedule(ENDS, None, u)).max() > 0.05  # which is no line


def test_a_fresh_schedule_is_about_a_line():
    u = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(vdm.monotone(vdm.init_monotone(jax.random.key(3)), u), u, atol=2e-3)


def test_the_path_has_log_snr_for_its_time():
    path, x = paths.log_snr_path(-5.0, 13.3), jnp.linspace(0.01, 1, 7)
    np.testing.assert_allclose(paths.log_snr(path, x), 13.3 - 18.3 * x, rtol=1e-5)
    near = jnp.array([1e-5, 5e-4, 0.3, 0.9])
    np.testing.assert_allclose(path.t_of_log_snr(paths.log_snr(path, near)), near, rtol=1e-3)
    assert path.sigma(0.0) == 0 and path.alpha(0.0) == 1


# --- the bound ----------------------------------------------------------------------------------------------------------------


def test_the_schedule_between_its_ends_has_no_part_in_the_mean_of_the_bound():
    line, curve = of(None), of(WEIGHTS)
    stderr = math.hypot(line.std(), curve.std()) / N**0.5
    assert abs(line.mean() - curve.mean()) < 4 * stderr
    assert jnp.abs(line - curve).mean() > 0.1


def test_the_bound_of_a_perfect_model_is_the_likelihood():
    """Of Gaussian data, where the ends lose next to nothing."""
    low, high = ENDS
    z = X + jnp.exp(low / 2) * jax.random.normal(jax.random.key(3), X.shape)
    parts = vdm.Bound(of(None), vdm.reconstruction_nats(X, z, low), vdm.prior_nats(X, high))
    exact = -gaussian_log_prob(X, MEAN, STD**2)
    error = sum(parts) - exact
    assert abs(error.mean()) < 4 * error.std() / N**0.5 and error.std() / N**0.5 < 0.2


def test_more_steps_make_the_bound_tighter_and_many_are_continuous_time():
    bounds = [of(None, steps=steps).mean() for steps in (5, 20, 80, 100_000)]
    assert bounds[0] > bounds[1] > bounds[2] > bounds[3]
    np.testing.assert_allclose(bounds[3], of(None).mean(), rtol=1e-3)


def test_reconstruction_sums_to_one_over_the_levels():
    levels = (jnp.arange(256) / 127.5 - 1).reshape(256, 1, 1, 1)
    z = jnp.full_like(levels, 0.123)
    for gamma in (-13.3, -5.0, 1.0):
        np.testing.assert_allclose(jnp.exp(-vdm.reconstruction_nats(levels, z, gamma)).sum(), 1, rtol=1e-4)


def test_prior_is_the_kl_of_gaussians():
    with x64(True):
        x, gamma = jnp.array([[0.7], [-0.2]]), jnp.float64(1.3)
        mean, variance = x * jnp.sqrt(jax.nn.sigmoid(-gamma)), jax.nn.sigmoid(gamma)
        z = jnp.linspace(-12, 12, 20_001)
        q = jnp.exp(-((z - mean) ** 2) / (2 * variance)) / jnp.sqrt(2 * math.pi * variance)
        expected = (q * (-((z - mean) ** 2) / (2 * variance) + z**2 / 2 - jnp.log(variance) / 2)).sum(1) * (z[1] - z[0])
        np.testing.assert_allclose(vdm.prior_nats(x, gamma), expected, rtol=1e-8)


AUTHORS = {  # steps -> the diffusion part of each image
    0: [321.1630859375, 99.94915008544922, 492.8400573730469],
    10: [663.7589111328125, 189.24851989746094, 1046.9512939453125],
}


@pytest.mark.parametrize("steps", AUTHORS)
def test_its_parts_are_those_of_the_authors_code(steps):
    """`VDM` of model_vdm.py of google-research/vdm, commit dc27b98a, with a "learnable_scalar" schedule from -9 to 5.

    Changed there: pixels are k / 127.5 - 1, the network answers tanh(0.7 z + 0.05 gamma), the random numbers are those here.
    """
    shape = (3, 4, 4, 3)
    x, ends = jnp.float32(images("vdm", shape) / 127.5 - 1), jnp.array([-9.0, 5.0])
    gamma_of, u = partial(vdm.schedule, ends, None), (0.37 + jnp.arange(3) / 3) % 1.0
    answer = lambda z, gamma: jnp.tanh(0.7 * z + 0.05 * gamma[:, None, None, None])  # noqa: E731
    diffusion = vdm.diffusion_nats(answer, gamma_of, x, jnp.float32(normal("eps", shape)), u, steps)
    np.testing.assert_allclose(diffusion, AUTHORS[steps], rtol=1e-5)
    z = x + jnp.exp(-9 / 2) * normal("eps0", shape)
    np.testing.assert_allclose(
        vdm.reconstruction_nats(x, z, -9.0), [92.8740234375, 94.87135314941406, 83.2369613647461], rtol=1e-5
    )
    expected = [0.03224891424179077, 0.019020140171051025, 0.021195411682128906]
    np.testing.assert_allclose(vdm.prior_nats(x, jnp.float32(5.0)), expected, rtol=1e-4)


# --- the model ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def make(monkeypatch):
    """With a network that knows Gaussian data, but for a factor of its own."""

    def apply(params, x, t, condition, *, train=False, key=None):
        gamma = jnp.broadcast_to(ENDS[0] + (ENDS[1] - ENDS[0]) * t / 1000, x.shape[:1])
        return params["scale"] * predict(x, gamma) - x  # to which the model adds x

    net = Network(lambda *args: {"scale": jnp.ones(())}, apply)
    monkeypatch.setattr(vdm, "backbone", lambda *args, **told: net)
    return partial(vdm.make, (2,), gamma_min=-8.0, gamma_max=5.0, fourier_features=())


BATCH = Batch(X, None, jax.random.split(jax.random.key(4), N), U)


@pytest.mark.parametrize("learn", ["nothing", "ends", "schedule"])
def test_objectives_move_their_own_parameters(make, learn):
    model = make(learn=learn)
    variables = model.init(jax.random.key(0), BATCH)
    moved = {}
    for objective in model.objectives:
        loss = lambda params, o=objective: o.loss(params, {}, None, BATCH, step=0, train=True)[0]  # noqa: E731
        gradients = jax.grad(loss)(variables.params)[objective.group]
        moved[objective.name] = {jax.tree_util.keystr(p) for p, g in jax.tree_util.tree_leaves_with_path(gradients) if g.any()}
    assert "['weights']['scale']" in moved["vdm"] and ("['ends']" in moved["vdm"]) == (learn != "nothing")
    assert ("schedule" in moved) == (learn == "schedule") and (learn != "schedule" or len(moved["schedule"]) == 4)


def test_training_the_schedule_makes_the_loss_vary_less(make):
    """By its own objective alone."""
    model, optimizer = make(learn="schedule"), optax.adam(0.02)
    params = model.init(jax.random.key(0), BATCH).params

    @jax.jit
    def step(params, moments):
        loss = lambda s: model.objectives[1].loss(params | {"schedule": s}, {}, None, BATCH, step=0, train=True)  # noqa: E731
        gradients, (_, metrics) = jax.grad(loss, has_aux=True)(params["schedule"])
        updates, moments = optimizer.update(gradients, moments)
        return params | {"schedule": optax.apply_updates(params["schedule"], updates)}, moments, metrics["std"]

    stds, moments = [], optimizer.init(params["schedule"])
    for _ in range(100):
        params, moments, std = step(params, moments)
        stds.append(float(std))
    assert stds[-1] < 0.9 * stds[0]


def test_its_likelihood_bounds_that_of_gaussian_data_and_its_samples_are_of_them(make):
    model = make()
    variables, keys = model.init(jax.random.key(0), BATCH), BATCH.keys[:500]
    (term,) = [term for term in model.likelihoods if term.name == "variational_bound"]
    error = jax.jit(partial(term.fn, samples=64))(variables, keys, X[:500]) + gaussian_log_prob(X[:500], MEAN, STD**2)
    assert abs(error.mean()) < 4 * error.std() / 500**0.5 < 0.3
    samples = jax.jit(partial(model.sample, variables, keys, steps=200))()
    assert abs(samples.mean() - MEAN) < 0.1 and abs(samples.std() - STD) < 0.05


def test_the_papers_network_has_the_size_of_the_authors():
    """But for what they add labels with, and biases where blocks are told the time."""
    model = vdm.make((32, 32, 3))
    batch = Batch(jnp.zeros((1, 32, 32, 3)), None, jax.random.split(jax.random.key(0), 1))
    blocks, row, channels = 32 + 2 + 33, 4 * 128, 128
    shapes = jax.eval_shape(model.init, jax.random.key(0), batch).params
    assert count(shapes) == 30_578_181 + blocks * channels - row


def test_bad_settings_are_one_line():
    with pytest.raises(InputError, match="learn"):
        vdm.make((2,), network={"name": "mlp"}, learn="all")
    with pytest.raises(ValueError, match="log_snr_min=9 must be less"):
        vdm.make((2,), network={"name": "mlp"}, gamma_min=5.0, gamma_max=-9.0)
