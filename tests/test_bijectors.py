"""Every bijector: its inverse, its determinant, its condition. And every network that sits in one: what it must not see."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import bijectors
from gm_jax.bijectors import Bijector, actnorm, autoregressive, chain, coupling, gaussian, inverted, masked_coupling
from gm_jax.nets.couplings import (
    GlowNet,
    PointNet,
    ResidualNet,
    TopPrior,
    ZeroConv,
    conditioner,
    gaussian_scale,
    sigmoid_scale,
    tanh_scale,
)
from gm_jax.nets.made import made
from tests.weights import drawn
from tests.x64 import x64

IMAGE, POINT, CLASSES, N = (4, 4, 2), (5,), 3, 3
ODD = bijectors.checkerboard(4, 4, odd=True)
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def network(net, rule=tanh_scale):
    return conditioner(net, rule)


def kept(prior):
    return bijectors.Conditioner(lambda key, x, rest: prior.init(key, rest), lambda params, x, rest: prior.apply(params, rest))


def mixed_scales():
    first = chain({"squeeze": bijectors.squeeze(), "norm": actnorm(), "mix": bijectors.invertible_1x1(8)})
    second = chain({"squeeze": bijectors.squeeze(), "coupling": coupling(network(GlowNet(16, 4, None), sigmoid_scale))})
    prior = gaussian(kept(network(ZeroConv(8, None), gaussian_scale)))
    return bijectors.multiscale([first, second], [(2, 2, 8), (1, 1, 16)], [prior])


def last_alone():
    return bijectors.multiscale([bijectors.squeeze(), actnorm()], [(2, 2, 8), (2, 2, 4)])


# name -> a bijector, the shape of an example, is it told the condition?
CASES: dict[str, tuple[Bijector, tuple[int, ...], bool]] = {
    "actnorm": (actnorm(), IMAGE, False),
    "actnorm of points": (actnorm(), POINT, False),
    "autoregressive": (autoregressive(made(5, (7, 6), CLASSES)), POINT, True),
    "autoregressive, narrow": (autoregressive(made(5, (3,))), POINT, False),
    "autoregressive of one number": (autoregressive(made(1, (3, 3), CLASSES)), (1,), True),
    "inverse autoregressive": (inverted(autoregressive(made(5, (7, 6), CLASSES))), POINT, True),
    "checkerboard": (masked_coupling(network(ResidualNet(4, 8, 1, None)), bijectors.checkerboard(4, 4)), IMAGE, True),
    "the other checkerboard": (
        masked_coupling(network(ResidualNet(4, 8, 2, None)), bijectors.checkerboard(4, 4, True)),
        IMAGE,
        True,
    ),
    "coupling": (coupling(network(GlowNet(2, 4, None), sigmoid_scale)), IMAGE, True),
    "coupling of points": (coupling(network(PointNet(6, 8, dtype=None))), POINT, True),
    "flatten": (bijectors.flatten(IMAGE), IMAGE, False),
    "gaussian": (gaussian(network(TopPrior(4), gaussian_scale)), IMAGE, True),
    "gaussian of points": (gaussian(network(TopPrior(10), gaussian_scale)), POINT, True),
    "identity": (bijectors.identity(), IMAGE, False),
    "invertible 1x1": (bijectors.invertible_1x1(2), IMAGE, False),
    "invertible 1x1 of points": (bijectors.invertible_1x1(5, seed=1), POINT, False),
    "logit": (bijectors.logit(0.05), IMAGE, False),
    "several scales": (mixed_scales(), IMAGE, False),
    "the last scale alone": (last_alone(), IMAGE, False),
    "reverse": (bijectors.reverse(), IMAGE, False),
    "shifted": (bijectors.shifted(-0.5), IMAGE, False),
    "squeeze": (bijectors.squeeze(), IMAGE, False),
    "unconditional": (bijectors.unconditional(coupling(network(PointNet(6, 8, dtype=None)))), POINT, False),
    "chain": (chain({"a": actnorm(), "b": bijectors.reverse(), "c": autoregressive(made(5, (7,), CLASSES))}), POINT, True),
}
MANY = [name for name, (_, shape, _) in CASES.items() if shape != (1,)]  # of one number hidden units of MADE say nothing
TOLERANCE = {np.float32: (1e-4, 1e-4), np.float64: (1e-9, 1e-9)}


def case(name, dtype):
    """A bijector, weights that nothing is left of at zero, examples in (0, 1), and conditions."""
    bijector, shape, told = CASES[name]
    x = jnp.asarray(np.random.default_rng(0).uniform(0.05, 0.95, (N, *shape)), dtype)
    condition = jnp.asarray(np.eye(CLASSES)[:N], dtype) if told else None
    params = drawn(jax.eval_shape(bijector.init, jax.random.key(0), x, condition), dtype)
    return bijector, params, x, condition


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_the_inverse_is_one_and_the_determinant_that_of_the_jacobian(name, dtype):
    with x64(dtype is np.float64):
        bijector, params, x, condition = case(name, dtype)
        atol, rtol = TOLERANCE[dtype]

        @quick_jit
        def measured(params, x, condition):
            z, log_det = bijector.forward(params, x, condition)

            def one(x, condition):
                condition = None if condition is None else condition[None]
                return bijector.forward(params, x[None], condition)[0].reshape(-1)

            jacobian = jax.vmap(jax.jacfwd(one))(x, condition)
            return z, log_det, bijector.inverse(params, z, condition), jacobian.reshape(N, x[0].size, x[0].size)

        z, log_det, back, jacobian = measured(params, x, condition)
        assert z.dtype == back.dtype == dtype and log_det.shape == (N,)
        np.testing.assert_allclose(back, x, atol=atol)
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], atol=atol, rtol=rtol)


@pytest.mark.parametrize("name", [name for name, (_, _, told) in CASES.items() if told])
def test_the_networks_are_told_the_condition(name):
    bijector, params, x, condition = case(name, np.float32)
    forward = quick_jit(bijector.forward)
    others = jnp.roll(condition, 1, axis=0)
    change = forward(params, x, condition)[0] - forward(params, x, others)[0]
    assert np.abs(change).reshape(N, -1).max(1).min() > 1e-3


@pytest.mark.parametrize(
    "name", [name for name, (_, shape, _) in CASES.items() if shape != (1,)]
)  # of one number hidden units say nothing
def test_all_parameters_count_and_none_is_a_constant(name):
    bijector, params, x, condition = case(name, np.float32)

    def sum_of_squares(params):
        z, log_det = bijector.forward(params, x, condition)
        return (z**2).sum() + log_det.sum()

    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(quick_jit(jax.grad(sum_of_squares))(params)))


def test_actnorm_standardises_what_it_is_initialised_on():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (50, *IMAGE)) * jnp.array([1.0, 10.0])
    z, _ = actnorm().forward(actnorm().init(None, x), x)
    np.testing.assert_allclose(z.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(z.std((0, 1, 2)), 1, rtol=1e-5)


def test_a_chain_initialises_each_part_on_what_those_before_it_make():
    steps = chain({"shift": bijectors.shifted(7.0), "norm": actnorm(), "again": actnorm()})
    params = steps.init(jax.random.key(0), jax.random.normal(jax.random.key(1), (50, *POINT)))
    np.testing.assert_allclose(params["norm"]["bias"], -7, atol=0.6)
    np.testing.assert_allclose(params["again"]["bias"], 0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 2, 12])
def test_an_invertible_1x1_begins_as_a_rotation(channels):
    mix = bijectors.invertible_1x1(channels)
    x = jax.random.normal(jax.random.key(0), (N, channels))
    z, log_det = mix.forward(mix.init(None, x), x)
    np.testing.assert_allclose((z**2).sum(1), (x**2).sum(1), rtol=1e-4)
    np.testing.assert_allclose(log_det, 0, atol=1e-5)


def test_the_answers_of_made_see_what_comes_before_alone():
    net, x = made(6, (10, 40)), jax.random.normal(jax.random.key(0), (50, 6))  # ReLU hides some dependences of a single x
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x))
    answers = lambda x: jnp.concatenate(net.apply(params, x[None]))  # noqa: E731
    sees = np.any(quick_jit(jax.vmap(jax.jacfwd(answers)))(x) != 0, axis=0)
    np.testing.assert_array_equal(sees, [np.tril(np.ones((6, 6)), -1)] * 2)


def test_squeezing_keeps_the_pixels_of_a_channel_together():
    x = jnp.arange(8).reshape(1, 2, 2, 2)
    np.testing.assert_array_equal(bijectors.squeeze().forward({}, x)[0][0, 0, 0], [0, 2, 4, 6, 1, 3, 5, 7])
