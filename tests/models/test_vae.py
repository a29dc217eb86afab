import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, Variables, streams
from gm_jax.densities import discretized_gaussian_log_prob
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.models import vae
from gm_jax.variational import gaussian_kl
from tests.weights import count, drawn

SHAPE, LATENT, PIXELS = (8, 8, 1), 4, 64
LEVELS = np.arange(256, dtype=np.uint8)
NETWORK = {"name": "resnet", "channels": 8, "num_blocks": 0}
make = partial(vae.make, SHAPE, network=NETWORK, latent_dim=LATENT)


@pytest.fixture(scope="module")
def batch():
    """Two blurred prototypes with noise: something that four latent dimensions can describe."""
    images = jax.random.uniform(jax.random.key(0), (8, *SHAPE), minval=-0.3, maxval=0.3)
    images = images.at[:4, :4].add(0.6).at[4:, 4:].add(-0.6)
    return Batch(images, None, jax.random.split(jax.random.key(1), 8))


@pytest.fixture(scope="module")
def variables(batch):
    return jax.jit(make().init)(jax.random.key(2), batch)


@pytest.fixture(scope="module")
def perturbed(variables):
    """Parameters whose decoder depends on z."""
    return drawn(variables)


def loss_and_metrics(model, variables, batch, step=0, train=True):
    loss = jax.jit(partial(model.objectives[0].loss, train=train))
    value, (state, metrics) = loss(variables.params, variables.state, None, batch, step=step)
    return value, metrics, state


def with_gradient(model, variables, batch):
    loss = jax.jit(jax.value_and_grad(partial(model.objectives[0].loss, step=0, train=True), has_aux=True))
    (value, (state, metrics)), grads = loss(variables.params, variables.state, None, batch)
    return value, metrics, state, grads


def assert_trees_close(a, b, rtol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * float(np.abs(y).max() + 1e-12)), a, b)


# --- importance weights -------------------------------------------------------------------------------------------------------


def test_the_iwae_objective_is_its_bound_and_rises_with_the_samples(perturbed, batch):
    """Against the likelihood of the same name, which draws the same z, and in the order ELBO <= IWAE(4) <= IWAE(32)."""
    values = {}
    for k in (2, 4, 32):
        model = make(decoder="bernoulli", importance_samples=k)
        many = Batch(jnp.tile(batch.x, (16, 1, 1, 1)), None, jax.random.split(jax.random.key(5), 128))
        value, metrics, _ = loss_and_metrics(model, perturbed, many)
        np.testing.assert_allclose(value, -metrics["iwae"], rtol=1e-6)
        (keys,) = streams(many.keys, "latent")
        bound = {likelihood.name: likelihood.fn for likelihood in model.likelihoods}["iwae"]
        nats = jax.jit(partial(bound, samples=k))(perturbed, keys, many.x)
        np.testing.assert_allclose(value, nats.mean(), rtol=1e-5)
        values[k] = float(metrics["iwae"])
        assert metrics["elbo"] < metrics["iwae"]
    assert values[2] < values[4] < values[32]


def test_an_iwae_of_one_sample_is_the_vae_and_takes_no_weight_of_a_kl(variables, batch):
    assert loss_and_metrics(make(importance_samples=1), variables, batch)[1].keys() >= {"elbo", "kl"}
    for wrong in ({"beta": 2.0}, {"free_bits": 0.1}, {"kl_warmup_steps": 5}, {"likelihood_variance": "optimal"}):
        with pytest.raises(InputError, match="importance_samples above 1"):
            make(importance_samples=5, **wrong)
    with pytest.raises(InputError, match="of a Gaussian decoder"):
        make(decoder="bernoulli", likelihood_variance="optimal")


def test_a_committed_rate_is_never_undercut_even_where_the_posterior_collapses(variables, batch):
    _, metrics, _ = loss_and_metrics(make(committed_rate=1.5, beta=100.0), variables, batch)
    assert metrics["kl"] >= 1.5
    model = make(committed_rate=1.5)
    q = model.posterior(variables, batch.x)
    np.testing.assert_allclose(model.prior_kl(q).sum(1).mean(), metrics["kl"], rtol=1e-5)
    assert make().prior_kl is None


# --- the loss -----------------------------------------------------------------------------------------------------------------


def test_free_bits_clamp_after_the_batch_mean():
    kl = jnp.array([[0.0, 0.1, 4.0], [1.0, 0.3, 0.0]])
    np.testing.assert_allclose(vae.free_bits_kl(kl, 0.5), 0.5 + 0.5 + 2.0)
    np.testing.assert_allclose(vae.free_bits_kl(kl, 0.0), kl.mean(0).sum())
    np.testing.assert_allclose(jax.grad(vae.free_bits_kl)(kl, 0.3), [[0.5, 0, 0.5]] * 2)  # 0 where the mean is below


def test_the_loss_is_the_negative_elbo_at_beta_one(variables, batch):
    value, metrics, _ = loss_and_metrics(make(), variables, batch)
    np.testing.assert_allclose(value, -metrics["elbo"], rtol=1e-6)
    # an untrained decoder gives the grey image, whatever z
    expected = 0.5 * PIXELS * math.log(2 * math.pi * 0.02) + float((batch.x**2).sum((1, 2, 3)).mean()) / 0.04
    np.testing.assert_allclose(metrics["reconstruction"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["mse"], jnp.mean(batch.x**2), rtol=1e-6)
    assert set(metrics) == {"elbo", "reconstruction", "kl", "mse"}


def test_beta_weighs_the_kl_and_nothing_else(variables, batch):
    _, one, _ = loss_and_metrics(make(beta=1.0), variables, batch)
    value, ten, _ = loss_and_metrics(make(beta=10.0), variables, batch)
    np.testing.assert_allclose(value, one["reconstruction"] + 10 * one["kl"], rtol=1e-6)
    assert one == ten  # the reported ELBO is that of beta = 1


def test_without_beta_the_kl_has_no_gradient(variables, batch):
    # the untrained decoder ignores z, so that only the KL can reach the encoder
    *_, grads = with_gradient(make(beta=0.0), variables, batch)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads["encoder"]))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["decoder"]))
    *_, grads = with_gradient(make(beta=1.0), variables, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["encoder"]))


def test_warmup_is_linear_then_constant(variables, batch):
    model = make(beta=4.0, kl_warmup_steps=10)
    loss = jax.jit(partial(model.objectives[0].loss, train=True))
    for step, beta in [(0, 0.0), (5, 2.0), (10, 4.0), (99, 4.0)]:
        value, (_, metrics) = loss(variables.params, {}, None, batch, step=step)
        np.testing.assert_allclose(metrics["beta"], beta)
        np.testing.assert_allclose(value, metrics["reconstruction"] + beta * metrics["kl"], rtol=1e-6)


def remembering(variables, variance=0.5):
    """Parameters, and the state of a model that has learnt this variance."""
    return Variables(variables.params, vae.init_variance(jnp.float32(variance)))


def test_optimal_variance_maximises_the_likelihood(perturbed, batch):
    _, metrics, _, grads = with_gradient(make(likelihood_variance="optimal", beta=0.0), remembering(perturbed), batch)
    variance = float(metrics["mse"])

    def reconstruction(v):  # of this mean squared error, at another variance
        return 0.5 * PIXELS * (math.log(2 * math.pi * v) + variance / v)

    np.testing.assert_allclose(metrics["reconstruction"], reconstruction(variance), rtol=1e-5)
    assert metrics["reconstruction"] < min(reconstruction(0.9 * variance), reconstruction(1.1 * variance))

    def log_mse(params):  # the loss with the variance eliminated (Rybkin et al. 2020)
        fixed = make(likelihood_variance=0.02).objectives[0].loss
        return 0.5 * PIXELS * jnp.log(fixed(params, {}, None, batch, step=0, train=True)[1][1]["mse"])

    assert_trees_close(grads, jax.jit(jax.grad(log_mse))(perturbed.params), rtol=1e-4)


def test_an_update_moves_the_remembered_variance_once_whatever_its_microbatches(perturbed, batch):
    model = make(likelihood_variance="optimal")
    (params, state), loss = remembering(perturbed), jax.jit(partial(model.objectives[0].loss, step=0, train=True))
    seen = []
    for part in (slice(0, 4), slice(4, 8)):
        _, (state, metrics) = loss(params, state, None, Batch(batch.x[part], None, batch.keys[part]))
        seen.append(metrics["mse"])
        assert state["likelihood_variance"] == 0.5  # during the update it stays
    after = model.objectives[0].after
    state = after(params, state, step=0)
    np.testing.assert_allclose(state["likelihood_variance"], 0.99 * 0.5 + 0.01 * np.mean(seen), rtol=1e-6)
    assert not state["seen"].any()
    assert make().objectives[0].after is None


def test_outside_training_the_remembered_variance_counts(perturbed, batch):
    variables = remembering(perturbed, 0.07)
    value, _, new_state = loss_and_metrics(make(likelihood_variance="optimal"), variables, batch, train=False)
    expected, _, _ = loss_and_metrics(make(likelihood_variance=0.07), perturbed, batch, train=False)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, new_state, variables.state)


def test_shards_of_a_batch_give_the_loss_and_gradient_of_the_whole(perturbed, batch):
    settings = {"likelihood_variance": "optimal", "free_bits": 1.0, "beta": 2.0}
    variables = remembering(perturbed)
    whole, metrics, state, grads = with_gradient(make(**settings), variables, batch)
    sharded = Batch(batch.x.reshape(2, 4, *SHAPE), None, batch.keys.reshape(2, 4))
    loss = jax.value_and_grad(make(**settings, axis_name="device").objectives[0].loss, has_aux=True)
    (values, (states, shard_metrics)), shard_grads = jax.jit(
        jax.vmap(
            lambda shard: loss(variables.params, variables.state, None, shard, step=0, train=True),
            in_axes=(Batch(0, None, 0),),
            axis_name="device",
        )
    )(sharded)
    np.testing.assert_allclose(values.mean(), whole, rtol=1e-5)
    assert state["seen"][1] == 1
    np.testing.assert_allclose(states["seen"], jnp.stack(2 * [state["seen"]]), rtol=1e-6)
    np.testing.assert_allclose(shard_metrics["kl"].mean(), metrics["kl"], rtol=1e-5)
    assert_trees_close(jax.tree.map(lambda g: g.mean(0), shard_grads), grads, rtol=1e-4)


# --- the model ----------------------------------------------------------------------------------------------------------------


def test_parameter_counts():
    for image_shape, expected in [((32, 32, 3), 5_100_044), ((28, 28, 1), 3_240_452), ((8, 8, 1), 546_372)]:
        example = Batch(jnp.zeros((1, *image_shape)), None, jax.random.split(jax.random.key(0), 1))
        shapes = jax.eval_shape(vae.make(image_shape).init, jax.random.key(0), example)
        assert count(shapes.params) == expected


def test_bounds_of_a_decoder_that_ignores_the_latent(variables):
    # p(x|z) = p(x): the exact value is known, and the ELBO misses it by the KL
    model = make(likelihood_variance=0.3)
    images = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    keys = jax.random.split(jax.random.key(3), 6)
    exact = -discretized_gaussian_log_prob(images, jnp.zeros((6, *SHAPE)), 0.3).sum((1, 2, 3))
    kl = gaussian_kl(*model.posterior(variables, to_float(images))).sum(1)
    bounds = {likelihood.name: likelihood.fn for likelihood in model.likelihoods}
    assert [likelihood.kind for likelihood in model.likelihoods] == ["bound", "bound"]
    np.testing.assert_allclose(jax.jit(bounds["elbo"])(variables, keys, images), exact + kl, rtol=1e-5)
    nats = jax.jit(partial(bounds["iwae"], samples=500))(variables, keys, images)
    assert np.all(np.abs(nats - exact) < 0.5 * kl)


def test_points_have_perceptrons():
    model = vae.make((2,), network={"name": "mlp", "width": 8}, latent_dim=3)
    batch = Batch(jnp.zeros((5, 2)), None, jax.random.split(jax.random.key(0), 5))
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), batch))
    value, metrics, _ = loss_and_metrics(model, variables, batch)
    np.testing.assert_allclose(value, -metrics["elbo"], rtol=1e-6)
    assert jax.eval_shape(model.sample, variables, batch.keys).shape == (5, 2)


@pytest.mark.parametrize(
    "setting",
    [
        {"beta": -1.0},
        {"likelihood_variance": 0.0},
        {"likelihood_variance": "best"},
        {"kl_warmup_steps": -1},
        {"free_bits": -0.1},
        {"class_conditional": True},
    ],
)
def test_bad_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        make(**setting)


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ({"channel_multipliers": (1, 2, 4, 8)}, "channel_multipliers"),
        ({"depth": 2}, "depth"),
        ({"channels": 0}, "channels is 0"),
    ],
)
def test_bad_settings_of_the_network_are_named(network, reason):
    with pytest.raises(InputError, match=reason):
        make(network={"name": "resnet", **network})
