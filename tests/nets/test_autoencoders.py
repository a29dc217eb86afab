"""Encoders and decoders by name: that all are called alike, see their condition, and refuse what does not fit them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.nets.autoencoders import AUTOENCODERS, autoencoder, beside
from tests.weights import count, drawn

CASES = [("mlp", {"width": 8, "depth": 1}, (3,)), ("mlp", {"width": 8}, (4, 4, 1)), ("resnet", {"channels": 4}, (4, 4, 2))]
LATENT, FEATURES = 2, 5


def test_every_network_is_tried_here():
    assert {name for name, _, _ in CASES} == AUTOENCODERS.keys()


@pytest.mark.parametrize(("name", "settings", "shape"), CASES)
def test_encoder_and_decoder_have_the_shapes_asked_for_and_both_see_the_condition(name, settings, shape):
    net = autoencoder({"name": name, **settings}, shape, LATENT, FEATURES)
    x, z, condition = jax.random.normal(jax.random.key(0), (3, *shape)), jnp.ones((3, LATENT)), jnp.eye(3, 4)
    plain, told = (jax.eval_shape(net.init, jax.random.key(0), x, c) for c in (None, condition))
    assert plain.keys() == told.keys() == {"encoder", "decoder"}
    assert count(told["encoder"]) > count(plain["encoder"]) and count(told["decoder"]) > count(plain["decoder"])
    params = drawn(told)
    for network, value, out in ((net.encode, x, (3, FEATURES)), (net.decode, z, (3, *shape))):
        apply = jax.jit(network)
        answer, other = apply(params, value, condition), apply(params, value, condition.at[0].set(0))
        assert answer.shape == out and answer.dtype == jnp.float32
        changed = jnp.abs(answer - other).max(tuple(range(1, answer.ndim)))
        assert changed[0] > 1e-4
        np.testing.assert_allclose(changed[1:], 0, atol=1e-6)
        assert jax.eval_shape(network, plain, value).shape == out


def test_a_condition_stands_beside_vectors_and_at_every_pixel_of_images():
    condition = jnp.array([[0.0, 1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(beside(jnp.ones((2, 3)), condition), [[1, 1, 1, 0, 1], [1, 1, 1, 2, 3]])
    images = beside(jnp.zeros((2, 4, 5, 1)), condition)
    assert images.shape == (2, 4, 5, 3)
    np.testing.assert_array_equal(images[1, ..., 1:], np.broadcast_to([2, 3], (4, 5, 2)))


@pytest.mark.parametrize(
    ("settings", "shape", "reason"),
    [
        ({"name": "vit"}, (8, 8, 1), "unknown network 'vit'; choose mlp, resnet"),
        ({"name": "resnet", "width": 8}, (8, 8, 1), "network 'resnet': .*'width'"),
        ({"name": "resnet", "num_blocks": -1}, (8, 8, 1), "num_blocks is -1; give a whole number of at least 0"),
        ({"name": "resnet", "channel_multipliers": (1, 2, 4, 8)}, (8, 8, 1), "channel_multipliers"),
        ({"name": "resnet"}, (2,), "network resnet is for images, not for points of 2 numbers; take mlp"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(settings, shape, reason):
    with pytest.raises(InputError, match=reason):
        autoencoder(settings, shape, LATENT, FEATURES)
