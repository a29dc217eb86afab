"""Latents and densities by the probability-flow ODE, against those of Gaussian data."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.diffusion import ode
from gm_jax.diffusion.paths import flow_path, sub_vp_path, ve_path
from tests.diffusion.gaussian import MEAN, PATHS, STD, denoiser, marginal, probability_flow
from tests.x64 import x64

ALL = PATHS | {"sub_vp": sub_vp_path(), "ve": ve_path()}
KEYS = jax.random.split(jax.random.key(0), 4)
X = np.random.default_rng(0).normal(MEAN, STD, (4, 2, 2, 1)).astype(np.float32)


@partial(jax.jit, static_argnames="name")
def solved(name, x):
    path = ALL[name]
    of = lambda row: denoiser(path)  # noqa: E731
    z = ode.encode(path, of, x)
    nats = [ode.nats(path, of, KEYS, x, exact=exact) for exact in (True, False)]
    return z, ode.decode(path, of, z), *nats


@pytest.mark.parametrize("name", ["flow", "edm", "linear", "sub_vp", "ve"])
def test_latents_and_nats_are_those_of_the_exact_flow_and_a_latent_leads_back(name):
    """The prior is that which sampling starts from, N(0, sigma^2): of it, not of the data, the nats are."""
    path = ALL[name]
    z, back, *nats = solved(name, X)
    t, end = jnp.asarray(path.t_min), jnp.asarray(path.t_max)
    exact = probability_flow(path, X, t, end) / path.sigma(end)
    np.testing.assert_allclose(z, exact, atol=1e-3)
    np.testing.assert_allclose(back, X, atol=3e-4)
    stretch = marginal(path, end)[1] / marginal(path, t)[1] / path.sigma(end)
    expected = (exact**2 / 2 + math.log(2 * math.pi) / 2 - jnp.log(stretch)).sum((1, 2, 3))
    for found in nats:  # the Jacobian is diagonal: one probe tells its trace
        np.testing.assert_allclose(found, expected, atol=2e-3)


def test_bits_per_dim_of_a_gaussian():
    """Of images that are exactly quantized: the mean over them is the entropy of N(MEAN, STD^2) in units of a grey level."""
    path, rng = flow_path(), np.random.default_rng(0)
    images = np.uint8(np.clip(np.round(127.5 * (rng.normal(MEAN, 0.2, (256, 4, 4, 1)) + 1)), 0, 255))
    keys = jax.random.split(jax.random.key(1), len(images))
    nats = jax.jit(lambda: ode.dequantized_nats(path, lambda row: denoiser(path, std=0.2), keys, images))()
    entropy = math.log(0.2 * 127.5) + math.log(2 * math.pi * math.e) / 2
    assert abs(float(nats.mean()) / 16 - entropy) < 4 * 0.71 / images.size**0.5 + 0.002


def linear_denoiser(path, matrix):
    """That of data N(0, matrix), with correlated numbers."""

    def estimate(x_t, t):
        alpha, sigma = path.alpha(t), path.sigma(t)
        gain = alpha * matrix @ jnp.linalg.inv(alpha**2 * matrix + sigma**2 * jnp.eye(len(matrix)))
        return x_t @ gain.T

    return estimate


def test_hutchinson_is_unbiased_and_the_exact_trace_is_exact():
    path, matrix = PATHS["edm"], jnp.array([[0.5, 0.3, 0.1], [0.3, 0.4, -0.1], [0.1, -0.1, 0.2]])
    of = lambda row: linear_denoiser(path, matrix)  # noqa: E731
    x, keys = jnp.tile(jnp.array([0.5, -0.2, 0.3]), (2000, 1)), jax.random.split(jax.random.key(0), 2000)
    exact = ode.nats(path, of, keys[:1], x[:1])[0]
    expected = (x[0] @ jnp.linalg.solve(matrix, x[0]) + jnp.linalg.slogdet(2 * jnp.pi * matrix)[1]) / 2
    np.testing.assert_allclose(exact, expected, atol=5e-3)
    one, four = (np.asarray(ode.nats(path, of, keys, x, exact=False, probes=n, tolerance=1e-3)) for n in (1, 4))
    assert abs(one.mean() - exact) < 4 * one.std() / len(one) ** 0.5 + 0.01
    assert 0.4 < four.std() / one.std() < 0.6


def test_what_is_found_of_an_example_does_not_depend_on_the_others():
    path = PATHS["linear"]
    of = lambda row: denoiser(path, std=row)  # noqa: E731
    stds = jnp.array([0.5, 0.01, 0.2, 1.0])  # which take different numbers of steps
    run = jax.jit(lambda keys, x, stds: ode.nats(path, of, keys, x, stds))
    together = run(KEYS, X, stds)
    alone = [run(KEYS[i : i + 1], X[i : i + 1], stds[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert len(np.unique(np.asarray(together))) == 4


def test_a_smaller_tolerance_is_a_smaller_error():
    path = PATHS["cosine"]
    t, end = jnp.asarray(path.t_min), jnp.asarray(path.t_max)
    with x64(True):
        x = jnp.asarray(X, jnp.float64)
        exact = probability_flow(path, x, t, end) / path.sigma(end)
        found = [ode.encode(path, lambda row: denoiser(path), x, tolerance=tolerance) for tolerance in (1e-2, 1e-4, 1e-6)]
        errors = [jnp.abs(z - exact).max() for z in found]
        errors = np.array(errors)
    assert errors[2] < errors[1] / 3 < errors[0] / 9
    assert errors[2] < 1e-4


def test_no_solution_is_not_a_number():
    path = PATHS["edm"]
    broken = lambda x_t, t: x_t * jnp.nan  # noqa: E731
    assert np.isnan(ode.encode(path, lambda row: broken, X)).all()
