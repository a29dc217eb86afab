"""A mixture of Gaussians on latents, and the autoencoder that needs one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gm_jax.build import build_model
from gm_jax.core import Batch, Variables
from gm_jax.errors import InputError
from gm_jax.models import expost, rae
from tests.weights import drawn

RNG = np.random.default_rng(0)


def mixture(components=3, dim=2):
    shapes = jax.eval_shape(lambda: expost.init_mixture(jax.random.key(0), components, dim))
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(0, 0.5, a.shape), jnp.float32), shapes)


def exact(m):
    """(weights, means, covariances), by another way."""
    factors = np.tril(m["scales"], -1) + np.stack([np.diag(np.exp(np.diag(s))) for s in np.asarray(m["scales"])])
    return np.exp(m["logits"]) / np.exp(m["logits"]).sum(), np.asarray(m["means"]), factors @ factors.transpose(0, 2, 1)


def test_the_density_of_a_mixture_is_that_of_scipy_and_its_draws_have_its_moments():
    m, z = mixture(), RNG.normal(size=(7, 2)).astype(np.float32)
    weights, means, covariances = exact(m)
    density = sum(w * stats.multivariate_normal.pdf(z, a, c) for w, a, c in zip(weights, means, covariances, strict=True))
    np.testing.assert_allclose(expost.mixture_log_prob(m, z), np.log(density), rtol=1e-5)
    drawn = np.asarray(jax.jit(expost.draw_mixture)(m, jax.random.split(jax.random.key(0), 40_000)), np.float64)
    mean = weights @ means
    covariance = np.einsum("k,kij->ij", weights, covariances + np.einsum("ki,kj->kij", means - mean, means - mean))
    np.testing.assert_allclose(drawn.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.1)


def test_latents_are_standardized_by_all_that_was_seen_in_whatever_portions():
    z = (RNG.normal(size=(400, 2)) @ [[3, 1], [0, 0.2]] + [5, -2]).astype(np.float32)
    moments = expost.no_moments(2)
    for part in np.split(z, 4):
        moments = expost.see(moments, jnp.asarray(part))
        assert moments["total"]["count"] == 0
    mean, std = expost.mean_and_std(expost.settle(moments))
    np.testing.assert_allclose(mean, z.mean(0), rtol=1e-4)
    np.testing.assert_allclose(std, z.std(0), rtol=1e-3)
    log_prob = expost.density_log_prob(expost.init_mixture(jax.random.key(0), 1, 2), expost.settle(moments), z[:5])
    expected = stats.norm.logpdf(z[:5], z.mean(0), z.std(0)).sum(1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-3)


def config(autoencoder, **settings):
    model = {"name": "expost", "autoencoder": autoencoder, "autoencoder_steps": 5, "components": 2, **settings}
    return {"model": model, "precision": "float32"}


def test_the_second_stage_leaves_the_autoencoder_alone_and_samples_are_decoded_from_the_density():
    network = {"name": "mlp", "width": 8}
    model = build_model(config({"name": "rae", "latent_dim": 3, "network": network}), (4, 4, 1), None)
    x = jnp.asarray(RNG.uniform(-1, 1, (6, 4, 4, 1)), jnp.float32)
    batch = Batch(x, None, jax.random.split(jax.random.key(0), 6))
    params, state = drawn(jax.jit(model.init)(jax.random.key(1), batch))
    state = {**state, "moments": expost.no_moments(3)}
    stage_one, density = model.objectives
    assert (stage_one.stop, density.start, density.group) == (5, 5, "density")
    loss = jax.jit(jax.grad(partial(density.loss, step=5, train=True), has_aux=True))
    grads, (state, _) = loss(params, state, None, batch)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["autoencoder"]))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(grads["density"]))
    variables = Variables(params, density.after(params, state, step=5))
    z = np.asarray(model.encode(variables, batch.keys, x))
    np.testing.assert_allclose(expost.mean_and_std(variables.state["moments"])[0], z.mean(0), rtol=1e-4, atol=1e-6)
    scales = jnp.tile(jnp.diag(jnp.full(3, -20.0)), (2, 1, 1))
    certain = {**params["density"], "scales": scales, "logits": jnp.array([50.0, 0.0])}
    sure = Variables({**params, "density": certain}, variables.state)
    mean, std = expost.mean_and_std(variables.state["moments"])
    keys = jax.random.split(jax.random.key(2), 2)
    expected = model.decode(sure, keys, jnp.tile(mean + std * certain["means"][0], (2, 1)))
    np.testing.assert_allclose(model.sample(sure, keys), expected, atol=1e-4)
    with pytest.raises(InputError, match="does not sample"):
        model.sample(variables, keys, prior=True)


def test_only_unconditional_models_with_vectors_for_latents_will_do():
    with pytest.raises(InputError, match="encodes and decodes"):
        build_model(config({"name": "pixelcnn"}), (8, 8, 1), None)
    model = build_model(config({"name": "vqvae", "channels": 8, "halvings": 1, "num_blocks": 0}), (8, 8, 1), None)
    batch = Batch(jnp.zeros((2, 8, 8, 1)), None, jax.random.split(jax.random.key(0), 2))
    with pytest.raises(InputError, match="no vectors"):
        jax.eval_shape(model.init, jax.random.key(0), batch)


def test_the_penalties_of_an_rae_are_the_norms_that_they_name():
    weight = jnp.asarray(RNG.normal(size=(3, 5)), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 4000)
    estimate = jax.jit(lambda z: rae.jacobian_norm(keys, lambda z: z @ weight, z))(jnp.zeros((4000, 3)))
    exact = float((weight**2).sum())
    assert abs(estimate.mean() - exact) < 4 * estimate.std() / np.sqrt(4000)
    assert rae.squared_norm({"kernel": weight, "bias": jnp.full(5, 9.0)}) == pytest.approx(exact / 2)
