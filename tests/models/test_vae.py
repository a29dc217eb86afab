import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gm_jax.core import Batch, Variables
from gm_jax.diffusion.discretized import discretized_gaussian_log_prob
from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.models import vae
from gm_jax.variational import gaussian_kl

SHAPE, LATENT, PIXELS = (8, 8, 1), 4, 64
LEVELS = np.arange(256, dtype=np.uint8)
make = partial(vae.make, SHAPE, latent_dim=LATENT, channels=8, num_blocks=0)


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
def trained(variables, batch):
    """Parameters whose decoder depends on z, and the losses on the way."""
    loss, adam = make().objectives[0].loss, optax.adam(3e-3)

    def step(carry, i):
        params, optimizer = carry
        noisy = batch._replace(keys=jax.vmap(jax.random.fold_in, (0, None))(batch.keys, i))
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, {}, None, noisy, step=i, train=True)
        updates, optimizer = adam.update(grads, optimizer, params)
        return (optax.apply_updates(params, updates), optimizer), value

    (params, _), losses = jax.jit(lambda p: jax.lax.scan(step, (p, adam.init(p)), jnp.arange(150)))(variables.params)
    return Variables(params), losses


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


# the loss


def test_free_bits_clamp_after_the_batch_mean():
    kl = jnp.array([[0.0, 0.1, 4.0], [1.0, 0.3, 0.0]])
    np.testing.assert_allclose(vae.free_bits(kl, 0.5), 0.5 + 0.5 + 2.0)
    np.testing.assert_allclose(vae.free_bits(kl, 0.0), kl.mean(0).sum())
    np.testing.assert_allclose(jax.grad(vae.free_bits)(kl, 0.3), [[0.5, 0, 0.5]] * 2)  # 0 where the mean is below


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


def test_optimal_variance_maximises_the_likelihood_and_is_remembered(trained, batch):
    model = make(likelihood_variance="optimal", beta=0.0)
    variables = Variables(trained[0].params, {"likelihood_variance": jnp.float32(0.5)})
    _, metrics, state, grads = with_gradient(model, variables, batch)
    variance = float(metrics["mse"])
    np.testing.assert_allclose(state["likelihood_variance"], 0.99 * 0.5 + 0.01 * variance, rtol=1e-6)

    def reconstruction(v):  # of this mean squared error, at another variance
        return 0.5 * PIXELS * (math.log(2 * math.pi * v) + variance / v)

    np.testing.assert_allclose(metrics["reconstruction"], reconstruction(variance), rtol=1e-5)
    assert metrics["reconstruction"] < min(reconstruction(0.9 * variance), reconstruction(1.1 * variance))

    def log_mse(params):  # the loss with the variance eliminated (Rybkin et al. 2020)
        fixed = make(likelihood_variance=0.02).objectives[0].loss
        return 0.5 * PIXELS * jnp.log(fixed(params, {}, None, batch, step=0, train=True)[1][1]["mse"])

    assert_trees_close(grads, jax.jit(jax.grad(log_mse))(variables.params), rtol=1e-4)


def test_outside_training_the_remembered_variance_counts(trained, batch):
    model = make(likelihood_variance="optimal")
    state = {"likelihood_variance": jnp.float32(0.07)}
    value, _, new_state = loss_and_metrics(model, Variables(trained[0].params, state), batch, train=False)
    expected, _, _ = loss_and_metrics(make(likelihood_variance=0.07), trained[0], batch, train=False)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert new_state == state


def test_shards_of_a_batch_give_the_loss_and_gradient_of_the_whole(trained, batch):
    settings = {"likelihood_variance": "optimal", "free_bits": 1.0, "beta": 2.0}
    variables = Variables(trained[0].params, {"likelihood_variance": jnp.float32(0.5)})
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
    np.testing.assert_allclose(states["likelihood_variance"], jnp.full(2, state["likelihood_variance"]), rtol=1e-6)
    np.testing.assert_allclose(shard_metrics["kl"].mean(), metrics["kl"], rtol=1e-5)
    assert_trees_close(jax.tree.map(lambda g: g.mean(0), shard_grads), grads, rtol=1e-4)


def test_training_learns_what_tells_the_images_apart(trained, batch):
    variables, losses = trained
    assert losses[-10:].mean() < 0.5 * losses[0]
    model = make()
    mean = model.posterior(variables, batch.x).mean
    error = jnp.mean((model.decode(variables, batch.keys, mean) - batch.x) ** 2)
    assert error < 0.5 * batch.x.var(0).mean()  # the mean image would have the variance


# the model


def test_parameter_counts():
    for image_shape, count in [((32, 32, 3), 5_100_044), ((28, 28, 1), 3_240_452), ((8, 8, 1), 546_372)]:
        example = Batch(jnp.zeros((1, *image_shape)), None, jax.random.split(jax.random.key(0), 1))
        shapes = jax.eval_shape(vae.make(image_shape).init, jax.random.key(0), example)
        assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params)) == count


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


def test_iwae_is_tighter_than_elbo_and_independent_of_the_batch(trained, batch):
    model = make()
    images = np.asarray((batch.x + 1) * 127.5, np.uint8)
    elbo, iwae = (jax.jit(partial(likelihood.fn, samples=32)) for likelihood in model.likelihoods)
    nats = iwae(trained[0], batch.keys, images)
    assert np.all(nats < elbo(trained[0], batch.keys, images))
    np.testing.assert_allclose(iwae(trained[0], batch.keys[2:4], images[2:4]), nats[2:4], rtol=1e-5)


def test_samples_depend_on_their_own_key_alone(trained):
    model = make()
    keys = jax.random.split(jax.random.key(5), 6)
    samples = model.sample(trained[0], keys)
    assert samples.shape == (6, *SHAPE)
    assert np.abs(samples).max() <= 1
    np.testing.assert_allclose(model.sample(trained[0], keys[4:]), samples[4:], atol=1e-5)
    assert np.abs(samples[0] - samples[1]).max() > 1e-2
    assert model.nfe() == 1
    with pytest.raises(TypeError):
        model.sample(trained[0], keys, steps=10)


def test_encode_draws_from_the_posterior(trained, batch):
    model, n = make(), 4000
    x = jnp.broadcast_to(batch.x[:1], (n, *SHAPE))
    z = jax.jit(model.encode)(trained[0], jax.random.split(jax.random.key(6), n), x)
    mean, logvar = model.posterior(trained[0], batch.x[:1])
    standardized = np.asarray((z - mean) / jnp.exp(0.5 * logvar))
    np.testing.assert_allclose(standardized.mean(0), 0, atol=4 / math.sqrt(n))
    np.testing.assert_allclose(standardized.var(0), 1, atol=4 * math.sqrt(2 / n))


def test_labels_are_refused(variables, batch):
    model = make()
    labels = jnp.zeros(8, int)
    for call in (
        lambda: model.sample(variables, batch.keys, labels),
        lambda: model.encode(variables, batch.keys, batch.x, labels),
        lambda: model.decode(variables, batch.keys, jnp.zeros((8, LATENT)), labels),
        lambda: model.posterior(variables, batch.x, labels),
        lambda: model.likelihoods[0].fn(variables, batch.keys, jnp.zeros((8, *SHAPE), jnp.uint8), labels),
    ):
        with pytest.raises(InputError, match="unconditional"):
            call()


@pytest.mark.parametrize(
    "setting",
    [
        {"beta": -1.0},
        {"likelihood_variance": 0.0},
        {"likelihood_variance": "best"},
        {"kl_warmup_steps": -1},
        {"free_bits": -0.1},
        {"channel_multipliers": (1, 2, 4, 8)},
    ],
)
def test_bad_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        make(**setting)
