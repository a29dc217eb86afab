"""The fast convolution against the plain one: values, derivatives, and where it is taken."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.nets import winograd
from gm_jax.nets.winograd import conv3x3, plain, tiled
from gm_jax.system.flops import flops

ON_CPU = jax.default_backend() == "cpu"


def arrays(shape=(2, 16, 16, 64), out=64):
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((3, 3, shape[-1], out), np.float32) / np.sqrt(9 * shape[-1], dtype=np.float32)
    return jnp.asarray(rng.standard_normal(shape, np.float32)), jnp.asarray(kernel)


def exact(x, kernel, border):
    """In float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), (border, border), (border, border), (0, 0)))
    height, width, kernel = x.shape[1] - 2, x.shape[2] - 2, np.asarray(kernel, np.float64)
    return sum(x[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


@pytest.mark.parametrize("border", [0, 1])
@pytest.mark.parametrize("size", [(3, 3), (4, 6), (8, 5), (7, 4)])
def test_as_accurate_as_the_plain_convolution(size, border):
    x, kernel = arrays((3, *size, 32), 16)
    truth = exact(x, kernel, border)
    errors = [np.abs(conv(x, kernel, border) - truth).max() for conv in (tiled, plain)]
    assert errors[0] < 4 * errors[1]
    assert errors[1] < 1e-5


def test_derivatives_are_those_of_the_plain_convolution():
    x, kernel = arrays((2, 4, 4, 3), 2)
    fast, slow = (lambda *args, conv=conv: (jnp.sin(conv(*args, 1)) ** 2).sum() for conv in (conv3x3, plain))
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    for argnums in (0, 1, (0, 1)):
        jax.tree.map(close, jax.grad(fast, argnums)(x, kernel), jax.grad(slow, argnums)(x, kernel))
    close(*(jax.jacfwd(jax.grad(f))(x, kernel) for f in (fast, slow)))


def convolutions(fn, *args):
    """How many are in the program."""
    return jax.jit(fn).lower(*args).as_text().count("stablehlo.convolution")


def conv(x, kernel, strides=(1, 1), padding="SAME", **settings):
    return winograd.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings)


@pytest.mark.parametrize(("padding", "border"), [("SAME", 1), (((1, 1), (1, 1)), 1), ("VALID", 0)])
def test_taken_for_inference_on_a_cpu_alone(padding, border):
    x, kernel = arrays()
    assert convolutions(partial(conv, padding=padding), x, kernel) == (0 if ON_CPU else 1)
    np.testing.assert_allclose(conv(x, kernel, padding=padding), plain(x, kernel, border), atol=1e-5)
    train = jax.value_and_grad(lambda *a: conv(*a, padding=padding).sum(), (0, 1))
    assert convolutions(train, x, kernel) >= 2
    # with respect to the image alone, the kernel's tangent costs nothing
    assert flops(jax.value_and_grad(lambda x: (conv(x, kernel) ** 2).sum()), x) == 2 * flops(conv, x, kernel)


@pytest.mark.parametrize(
    ("shape", "out", "settings"),
    [
        ((2, 16, 16, 64), 64, {"strides": (2, 2)}),
        ((2, 16, 16, 64), 64, {"rhs_dilation": (2, 2)}),
        ((2, 16, 16, 64), 64, {"padding": ((0, 1), (0, 1))}),
        ((2, 16, 16, 64), 64, {"precision": "highest"}),
        ((2, 8, 8, 64), 64, {}),
        ((2, 16, 16, 64), 3, {}),
    ],
)
def test_not_taken_where_it_does_not_apply(shape, out, settings):
    assert convolutions(partial(conv, **settings), *arrays(shape, out)) == 1


def test_not_taken_in_low_precision():
    assert convolutions(conv, *(a.astype(jnp.bfloat16) for a in arrays())) == 1


def test_counted_as_the_plain_convolution():
    """FLOPs are what the model takes, on whatever device."""
    x, kernel = arrays()
    assert flops(conv, x, kernel) == 2 * 2 * 16 * 16 * 9 * 64 * 64
