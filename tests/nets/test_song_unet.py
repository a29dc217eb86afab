"""DDPM++ and NCSN++: the sizes of the authors' networks, how they resample, and what is never trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.nets.backbones import backbone
from gm_jax.nets.song_unet import double, half, smooth
from tests.weights import count, drawn

NCSNPP = {"embedding": "fourier", "encoder": "residual"}
SONG = {"channel_multipliers": (1, 2, 2, 2)}
FREQUENCIES = 128  # of NCSN++, which the authors do not count
X = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("settings", "told", "num_classes", "parameters"),
    [  # of the authors' classes
        (SONG, 0, None, 61_804_419),
        (SONG | {"num_res_blocks": 8}, 0, None, 106_632_579),
        (SONG | NCSNPP, 0, None, 62_758_787 + FREQUENCIES),
        (SONG | NCSNPP | {"num_res_blocks": 8}, 0, None, 107_586_947 + FREQUENCIES),
        (SONG | {"encoder": "residual"}, 0, None, 62_693_251),
        ({}, 0, None, 55_732_739),
        ({}, 9, None, 55_733_891),
        ({}, 19, 10, 55_735_299),
        (NCSNPP, 0, None, 56_395_523 + FREQUENCIES),
        (NCSNPP, 9, None, 56_397_827 + FREQUENCIES),
        (NCSNPP, 19, 10, 56_400_643 + FREQUENCIES),
    ],
)
def test_sizes_are_those_of_the_authors_networks(settings, told, num_classes, parameters):
    net = backbone({"name": "song_unet", **settings}, (32, 32, 3), num_classes=num_classes)
    condition = jnp.zeros((1, told)) if told else None
    assert count(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros(1), condition)) == parameters


def filtered(x, taps, **settings):
    """Each channel by itself, by the outer product of the taps."""
    kernel = np.outer(taps, taps).astype(np.float32)[:, :, None, None].repeat(3, axis=3)
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, dimension_numbers=dims, feature_group_count=3, **settings)


def test_resampling_is_a_filter_between_pixels():
    taps, two = np.array([1, 3, 3, 1]), (2, 2)
    np.testing.assert_allclose(half(X, True), filtered(X, taps / 8, window_strides=two, padding=[(1, 1)] * 2), atol=1e-6)
    np.testing.assert_allclose(smooth(X), filtered(X, taps / 8, window_strides=(1, 1), padding=[(2, 2)] * 2), atol=1e-6)
    doubled = filtered(X, taps / 4, window_strides=(1, 1), padding=[(2, 2)] * 2, lhs_dilation=two)
    np.testing.assert_allclose(double(X, True), doubled, atol=1e-6)
    np.testing.assert_allclose(half(X, False), X.reshape(2, 2, 2, 3, 2, 3).mean((2, 4)), atol=1e-6)
    np.testing.assert_array_equal(half(double(X, False), False), X)


def test_frequencies_are_kept_with_the_weights_and_never_trained():
    sizes = {"channels": 4, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (2,)}
    net = backbone({"name": "song_unet", **sizes, **NCSNPP}, (4, 4, 1))
    x, t = X[:, :, :4, :1], jnp.array([0.1, -0.3])
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x, t, None))
    gradients = jax.jit(jax.grad(lambda params: net.apply(params, x, t, None).sum()))(params)
    assert not gradients.pop("fourier")["frequencies"].any()
    assert all(leaf.any() for leaf in jax.tree.leaves(gradients))
    other = params | {"fourier": {"frequencies": params["fourier"]["frequencies"] + 0.1}}
    assert jnp.abs(net.apply(other, x, t, None) - net.apply(params, x, t, None)).max() > 1e-3
