"""The MMD against closed forms, and the model built on it."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from gm_jax.core import Batch
from gm_jax.errors import InputError
from gm_jax.models import mmd_vae
from gm_jax.variational import gaussian_kl
from tests.training.support import SGD, assert_close, finish, leaves, settings, start_jobs, train
from tests.weights import drawn

SHAPE, LATENT, PIXELS = (8, 8, 1), 3, 64
NETWORK = {"name": "resnet", "channels": 8, "num_blocks": 0}
make = partial(mmd_vae.make, SHAPE, network=NETWORK, latent_dim=LATENT)


# --- the discrepancy ----------------------------------------------------------------------------------------------------------


def expected_kernel(name, bandwidth, shift, variance):
    """E k(x, y) for x - y ~ N(shift, variance I)."""

    def of_rbf(b):
        return (1 + 2 * variance / b) ** (-len(shift) / 2) * math.exp(-np.sum(shift**2) / (b + 2 * variance))

    if name == "rbf":
        return of_rbf(bandwidth)
    # C / (C + s) is the integral of exp(-u) exp(-u s / C) over u > 0
    return integrate.quad(lambda u: math.exp(-u) * of_rbf(bandwidth / u), 0, math.inf)[0]


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("kernel", ["rbf", "imq"])
@pytest.mark.parametrize(("shift", "std"), [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (-0.3, 1.5)])
def test_the_mean_of_the_estimators_for_two_gaussians(shift, std, kernel, estimator):
    n, m, dim, bandwidth, repetitions = 12, 8, 3, 4.0, 3000
    similarity = mmd_vae.KERNELS[kernel](bandwidth)

    def estimate(key):
        x_key, y_key = jax.random.split(key)
        x, y = shift + std * jax.random.normal(x_key, (n, dim)), jax.random.normal(y_key, (m, dim))
        return mmd_vae.mmd(x, y, similarity, estimator)

    values = np.asarray(jax.jit(jax.vmap(estimate))(jax.random.split(jax.random.key(0), repetitions)), np.float64)
    mean = partial(expected_kernel, kernel, bandwidth)
    within_x, within_y = mean(np.zeros(dim), 2 * std**2), mean(np.zeros(dim), 2.0)
    expected = within_x + within_y - 2 * mean(np.full(dim, shift), 1 + std**2)
    if estimator == "biased":
        expected += (1 - within_x) / n + (1 - within_y) / m
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(repetitions)
    assert (values.min() < 0) == (estimator == "unbiased")
    assert (expected == pytest.approx(0, abs=1e-12)) == (estimator == "unbiased" and (shift, std) == (0, 1))


def test_the_mmd_of_a_sample_with_itself():
    x = jax.random.normal(jax.random.key(0), (20, 2))
    np.testing.assert_allclose(mmd_vae.mmd(x, x, mmd_vae.rbf(2.0), "biased"), 0, atol=1e-6)


def test_kernels_and_bandwidths_follow_their_papers():
    x, y = np.random.default_rng(0).normal(size=(2, 5))
    squared = np.sum((x - y) ** 2)
    authors, prior = (mmd_vae.BANDWIDTHS[name](5) for name in ("authors", "prior"))
    np.testing.assert_allclose(mmd_vae.rbf(authors)(squared), math.exp(-np.mean((x - y) ** 2) / 5), rtol=1e-6)
    np.testing.assert_allclose(mmd_vae.inverse_multiquadratic(prior)(squared), 10 / (10 + squared), rtol=1e-6)


@pytest.mark.parametrize("kernel", ["rbf", "imq"])
def test_descending_the_mmd_moves_points_to_the_prior(kernel):
    similarity = mmd_vae.KERNELS[kernel](mmd_vae.BANDWIDTHS["prior"](2))
    points = 1 + 0.3 * jax.random.normal(jax.random.key(0), (256, 2)) * jnp.array([1.0, 2.0])

    def step(points, key):
        grads = jax.grad(mmd_vae.mmd)(points, jax.random.normal(key, points.shape), similarity)
        return points - 200 * grads, None

    keys = jax.random.split(jax.random.key(1), 200)
    points = np.asarray(jax.jit(lambda points: jax.lax.scan(step, points, keys)[0])(points))
    np.testing.assert_allclose(points.mean(0), 0, atol=0.2)
    np.testing.assert_allclose(np.cov(points.T), np.eye(2), atol=0.3)


# --- the loss -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def batch():
    x = jax.random.uniform(jax.random.key(0), (8, *SHAPE), minval=-1.0)
    return Batch(x, None, jax.random.split(jax.random.key(1), 8))


@pytest.fixture(scope="module")
def variables(batch):
    """Of the Gaussian encoder, with a decoder that depends on z."""
    return drawn(jax.eval_shape(make().init, jax.random.key(2), batch))


def with_gradient(model, variables, batch):
    loss = jax.jit(jax.value_and_grad(partial(model.objectives[0].loss, step=0, train=True), has_aux=True))
    (value, (state, metrics)), grads = loss(variables.params, variables.state, None, batch)
    return value, metrics, grads


def test_the_loss_weighs_the_terms_of_the_paper(variables, batch):
    value, metrics, _ = with_gradient(make(alpha=-1.5, mmd_weight=40.0, likelihood_variance=0.3), variables, batch)
    assert set(metrics) == {"reconstruction", "mmd", "kl", "mse", "elbo"}
    expected = metrics["reconstruction"] + 2.5 * metrics["kl"] + 37.5 * metrics["mmd"]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    nats = 0.5 * PIXELS * (math.log(2 * math.pi * 0.3) + metrics["mse"] / 0.3)  # summed over the pixels
    np.testing.assert_allclose(metrics["reconstruction"], nats, rtol=1e-5)
    kl = gaussian_kl(*make().posterior(variables, batch.x)).sum(1).mean()
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)


def test_alpha_zero_lambda_one_is_the_vae(variables, batch):
    loss = make(alpha=0.0, mmd_weight=1.0).objectives[0].loss
    value, (_, metrics) = jax.jit(partial(loss, step=0, train=True))(*variables, None, batch)
    np.testing.assert_allclose(value, -metrics["elbo"], rtol=1e-6)


def test_the_mmd_compares_the_batch_with_the_prior(variables, batch):
    """A constant encoder: the discrepancy of a point at z from the prior, on average."""
    params = {**variables.params, "encoder": jax.tree.map(jnp.zeros_like, variables.params["encoder"])}
    model = make(encoder="deterministic", kernel="rbf", bandwidth=2.0)
    params["encoder"]["Dense_0"]["kernel"] = params["encoder"]["Dense_0"]["kernel"][:, :LATENT]
    z = params["encoder"]["Dense_0"]["bias"] = jnp.array([0.5, -1.0, 0.0])

    def one(key):
        keys = jax.random.split(key, len(batch.x))
        return model.objectives[0].loss(params, {}, None, batch._replace(keys=keys), step=0, train=True)[1][1]["mmd"]

    values = np.asarray(jax.jit(partial(jax.lax.map, one))(jax.random.split(jax.random.key(0), 1000)))
    mean = partial(expected_kernel, "rbf", 2.0)
    expected = 1 + mean(np.zeros(3), 2.0) - 2 * mean(np.asarray(z), 1.0)
    assert abs(values.mean() - expected) < 4 * values.std() / math.sqrt(len(values))


def test_shards_of_a_batch_give_the_loss_and_gradient_of_the_whole(variables, batch):
    whole, metrics, grads = with_gradient(make(), variables, batch)
    sharded = Batch(batch.x.reshape(2, 4, *SHAPE), None, batch.keys.reshape(2, 4))
    loss = jax.value_and_grad(make(axis_name="device").objectives[0].loss, has_aux=True)
    (values, (_, shard_metrics)), shard_grads = jax.jit(
        jax.vmap(
            lambda shard: loss(variables.params, variables.state, None, shard, step=0, train=True),
            in_axes=(Batch(0, None, 0),),
            axis_name="device",
        )
    )(sharded)
    np.testing.assert_allclose(values.mean(), whole, rtol=1e-5)
    np.testing.assert_allclose(shard_metrics["mmd"], jnp.full(2, metrics["mmd"]), rtol=1e-4)
    for ours, theirs in zip(jax.tree.leaves(shard_grads), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(ours.mean(0), theirs, rtol=1e-4, atol=1e-4 * float(jnp.abs(theirs).max()))


def test_eight_devices_take_the_step_of_one_in_either_mode(tmp_path):
    def config(parallel):
        model = {"name": "mmd_vae", "latent_dim": 4, "network": NETWORK}
        model |= {"mmd_weight": 1000.0, "likelihood_variance": 1.0}  # gradients of order one
        return settings(model, parallel=parallel, optimizer=SGD | {"learning_rate": 1e-4}, steps=1)

    jobs = [(config(parallel), tmp_path / parallel, None) for parallel in ("jit", "pmap")]
    out, _ = finish(start_jobs(tmp_path / "jobs.json", jobs, devices=8))
    assert out.count("8 x cpu") == 2
    single = train(config("jit"), tmp_path / "single")
    for parallel in ("jit", "pmap"):
        assert_close(leaves(tmp_path / parallel), single, rtol=1e-4, atol=1e-5)


# --- the model ----------------------------------------------------------------------------------------------------------------


def test_a_gaussian_encoder_has_a_posterior_and_bounds(variables, batch):
    model = make()
    assert [(bound.name, bound.kind) for bound in model.likelihoods] == [("elbo", "bound"), ("iwae", "bound")]
    assert not np.array_equal(model.encode(variables, batch.keys, batch.x), model.posterior(variables, batch.x).mean)


def test_a_deterministic_encoder_has_neither(batch):
    model = make(encoder="deterministic", mmd_weight=50.0)
    variables = drawn(jax.eval_shape(model.init, jax.random.key(0), batch))
    assert model.posterior is None and model.likelihoods == ()
    z = model.encode(variables, batch.keys, batch.x)
    assert z.shape == (8, LATENT)
    np.testing.assert_array_equal(z, model.encode(variables, batch.keys[::-1], batch.x))
    value, metrics, _ = with_gradient(model, variables, batch)
    assert set(metrics) == {"reconstruction", "mmd", "mse"}
    np.testing.assert_allclose(value, metrics["reconstruction"] + 50 * metrics["mmd"], rtol=1e-5)


@pytest.mark.parametrize(
    "setting",
    [
        {"encoder": "implicit"},
        {"kernel": "linear"},
        {"bandwidth": "median"},
        {"bandwidth": 0.0},
        {"estimator": "linear-time"},
        {"likelihood_variance": 0.0},
        {"alpha": 1.5},
        {"mmd_weight": -0.5},
        {"alpha": 0.5, "encoder": "deterministic"},
        {"network": {"name": "vit"}},
    ],
)
def test_bad_settings_are_named(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        make(**setting)


def test_one_example_has_no_unbiased_mmd():
    with pytest.raises(InputError, match="at least 2"):
        mmd_vae.mmd(jnp.zeros((1, 2)), jnp.zeros((1, 2)), mmd_vae.rbf(1.0))
