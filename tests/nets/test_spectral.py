"""Spectral normalisation against numpy's singular values, of every layer of the networks that use it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Variables
from gm_jax.nets import spectral
from gm_jax.nets.players import Setting, players
from tests.weights import drawn

Z = jnp.ones((2, 8))
X = jnp.ones((2, 8, 8, 3))
SETTING = Setting((8, 8, 3), 8, 3, "projection", "spectral", True, None, jnp.float32)
NETWORKS = {
    "mlp": {"width": 8},
    "dcgan": {"generator_channels": 4, "critic_channels": 4, "doublings": 1},
    "resnet": {"generator_channels": 6, "generator_blocks": 1, "critic_channels": 6, "critic_blocks": 2, "critic_halvings": 1},
}


def largest_singular_value(kernel):
    return np.linalg.svd(np.float64(kernel).reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


def kernels(params, names=("kernel", "embedding")):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if path[-1].key in names and leaf.ndim >= 2}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_of_both_players_has_the_norm_one(name):
    generator, critic = players({"name": name, **NETWORKS[name]}, SETTING)
    for player, inputs, names in ((generator, Z, ("kernel",)), (critic, X, ("kernel", "embedding"))):
        shapes = jax.eval_shape(player.init, jax.random.key(0), inputs, jnp.zeros(2, int))
        params = drawn(shapes.params)
        state = {**drawn(shapes.state), "vectors": spectral.init_vectors(params, names)}
        vectors = player.recalibrate(Variables(params, state), inputs, jnp.zeros(2, int))["vectors"]
        normalized = kernels(spectral.normalize(params, vectors), names)
        assert len(normalized) == len(vectors) >= 3
        for path, kernel in normalized.items():
            assert largest_singular_value(kernel) == pytest.approx(1, abs=2e-3), path


def test_parameters_that_are_no_kernels_stay_as_they_are():
    params = {"layer": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}, "norm": {"scale": jnp.ones(4)}}
    normalized = spectral.normalize(params, spectral.init_vectors(params))
    assert (normalized["layer"]["bias"] == 1).all() and (normalized["norm"]["scale"] == 1).all()
    np.testing.assert_allclose(normalized["layer"]["kernel"], 1 / np.sqrt(12), rtol=1e-5)


def test_power_iteration_follows_the_parameters_at_the_ratio_of_singular_values():
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.standard_normal((5, 5)))[0] for _ in range(2))
    params = {"a": {"kernel": jnp.float32(u @ np.diag([2.0, 1.0, 0.5, 0.2, 0.1]) @ v.T)}}
    vectors = {"a/kernel": jnp.float32(v @ np.array([1, 1, 0, 0, 0]) / np.sqrt(2))}
    for steps in (1, 2, 3):  # the part of the second singular vector shrinks by (1/2)^2 each time
        found = v.T @ np.asarray(spectral.iterate(params, vectors, steps)["a/kernel"])
        assert found[1] / found[0] == pytest.approx(0.25**steps, rel=1e-3)


def test_the_gradient_is_that_of_constant_singular_vectors():
    """d sigma = u^T dW v (Miyato et al. 2018, section 2.1), so that a kernel's own direction has no gradient."""
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
    params = {"a": {"kernel": kernel}}
    vectors = spectral.iterate(params, spectral.init_vectors(params), 100)
    target = jax.random.normal(jax.random.key(1), kernel.shape)
    loss = lambda params: (spectral.normalize(params, vectors)["a"]["kernel"] * target).sum()  # noqa: E731
    gradient = jax.grad(loss)(params)["a"]["kernel"]
    assert float((gradient * kernel).sum()) == pytest.approx(0, abs=1e-5)
    matrix = np.asarray(kernel, np.float64).reshape(-1, 4)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    flat = np.asarray(target).reshape(-1, 4)
    expected = flat / s[0] - (flat * matrix).sum() / s[0] ** 2 * np.outer(u[:, 0], vt[0])
    np.testing.assert_allclose(gradient.reshape(-1, 4), expected, atol=1e-4)
