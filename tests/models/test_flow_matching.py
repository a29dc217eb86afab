"""Flow matching: what it learns, and which lines and times it learns from."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, Network, Variables
from gm_jax.diffusion.coupling import optimal_transport
from gm_jax.diffusion.paths import flow_path
from gm_jax.errors import InputError
from gm_jax.models import flow_matching

N, DIM = 400, 2
X = jax.random.normal(jax.random.key(0), (N, DIM)) * 0.5 + 0.3
BATCH = Batch(X, jnp.arange(N) % 3, jax.random.split(jax.random.key(1), N))


@pytest.fixture
def seen(monkeypatch):
    """What the network is shown; it answers params["a"] x."""
    shown = {}

    def apply(params, x, t, condition, *, train=False, key=None):
        shown.update(x=x, t=t, condition=condition)
        return params["a"] * x

    net = Network(lambda *args: {"a": jnp.float32(0.7)}, apply)
    monkeypatch.setattr(flow_matching, "backbone", lambda *args, **told: net)
    return shown


def loss_of(model, batch=BATCH, train=False):
    params = model.init(jax.random.key(2), batch).params
    return model.objectives[0].loss(params, {}, None, batch, step=0, train=train)[0]


@pytest.mark.parametrize("coupling", ["independent", "optimal_transport"])
def test_the_loss_is_the_squared_error_of_the_velocity(seen, coupling):
    loss = loss_of(flow_matching.make((DIM,), coupling=coupling))
    t = seen["t"][:, None] / 999
    eps = (seen["x"] - (1 - t) * X) / t
    np.testing.assert_allclose(loss, ((0.7 * seen["x"] - (eps - X)) ** 2).mean(), rtol=1e-4)
    if coupling == "optimal_transport":
        np.testing.assert_allclose(eps, optimal_transport(X, eps), atol=1e-2)  # nothing to be gained


@pytest.mark.parametrize(
    ("times", "quantity"),
    [
        ("uniform", lambda t: t),
        ("logit_normal", lambda t: jax.scipy.stats.norm.cdf((jnp.log(t / (1 - t)) + 0.4) / 1.3)),
        ("log_normal", lambda t: jax.scipy.stats.norm.cdf((jnp.log(t / (1 - t)) + 0.4) / 1.3)),
    ],
)
def test_times_are_distributed_as_their_names_say(seen, times, quantity):
    loss_of(flow_matching.make((DIM,), times=times, time_mean=-0.4, time_std=1.3))
    u = np.sort(quantity(seen["t"] / 999))
    assert np.abs(u - (np.arange(N) + 0.5) / N).max() < 1.7 / N**0.5  # Kolmogorov and Smirnov, 1 in 200


def test_labels_are_dropped_in_training_alone(seen):
    model = flow_matching.make((DIM,), num_classes=3, class_conditional=True, label_dropout=0.5)
    loss_of(model)
    np.testing.assert_array_equal(seen["condition"], np.eye(3)[BATCH.labels])
    loss_of(model, train=True)
    assert 0.35 < seen["condition"].sum() / N < 0.65


def test_one_step_of_euler_is_the_mean_velocity_and_many_follow_it(monkeypatch):
    """Of Gaussian data the best velocity is known, and so is its flow: standardised values are kept."""
    path, mean, std = flow_path(), 0.3, 0.5

    def velocity(x, t):
        var = ((1 - t) * std) ** 2 + t**2
        return -mean + (t - (1 - t) * std**2) / var * (x - (1 - t) * mean)

    def apply(params, x, t, condition, *, train=False, key=None):
        return velocity(x, jnp.broadcast_to(t / 999, x.shape[:1])[:, None])

    monkeypatch.setattr(flow_matching, "backbone", lambda *args, **told: Network(lambda *args: {}, apply))
    model = flow_matching.make((DIM,))
    variables, keys = Variables({"network": {}}), jax.random.split(jax.random.key(3), 100)
    sample = jax.jit(partial(model.sample, variables, keys), static_argnames=("sampler", "steps"))
    np.testing.assert_allclose(sample(steps=1), mean, atol=1e-5)  # noise says nothing of the image
    exact = sample(sampler="heun", steps=200)
    assert abs(exact.mean() - mean) < 0.15 and abs(exact.std() - std) < 0.1
    errors = [float(jnp.abs(sample(steps=n) - exact).max()) for n in (50, 100)]
    assert 1.7 < errors[0] / errors[1] < 2.4
    z = model.encode(variables, keys, exact)
    np.testing.assert_allclose(z, (exact - mean) / std, atol=0.02)
    np.testing.assert_allclose(model.decode(variables, keys, z), exact, atol=1e-3)
    nats = model.likelihoods[0].fn(variables, keys, exact)
    expected = ((exact - mean) ** 2 / (2 * std**2)).sum(1) + DIM * np.log(std * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(nats, expected, atol=0.02)
    assert path.t_max == 1 and model.nfe() == 100


def test_bad_settings_are_one_line():
    with pytest.raises(InputError, match="coupling"):
        flow_matching.make((DIM,), network={"name": "mlp"}, coupling="sinkhorn")
    with pytest.raises(InputError, match="times"):
        flow_matching.make((DIM,), network={"name": "mlp"}, times="cosine")
