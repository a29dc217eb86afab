import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.nets.layers import depth_to_space, upsample_nearest
from gm_jax.nets.resnet import Decoder, Encoder, ResidualBlock, default_multipliers, lowest_grid


@pytest.mark.parametrize(
    ("image_shape", "multipliers", "grid"),
    [
        ((32, 32, 3), (1, 2, 4), (4, 4)),
        ((28, 28, 1), (1, 2), (7, 7)),
        ((8, 8, 1), (1,), (4, 4)),
        ((4, 4, 1), (1,), (2, 2)),
        ((64, 32, 3), (1, 2, 4), (8, 4)),
        ((128, 128, 3), (1, 2, 4, 4, 4), (4, 4)),
    ],
)
def test_the_default_halves_down_to_a_grid_of_four(image_shape, multipliers, grid):
    assert default_multipliers(image_shape) == multipliers
    assert lowest_grid(image_shape, multipliers) == grid


@pytest.mark.parametrize(("image_shape", "multipliers"), [((28, 28, 1), (1, 2, 4)), ((33, 33, 3), (1,)), ((8, 8, 1), ())])
def test_impossible_halvings_name_the_setting(image_shape, multipliers):
    with pytest.raises(InputError, match="channel_multipliers"):
        lowest_grid(image_shape, multipliers)
    with pytest.raises(InputError, match="channel_multipliers"):
        jax.eval_shape(Encoder(4, 8, multipliers).init, jax.random.key(0), jnp.zeros((1, *image_shape)))
    with pytest.raises(InputError, match="channel_multipliers"):
        jax.eval_shape(Decoder(image_shape, 8, multipliers).init, jax.random.key(0), jnp.zeros((1, 4)))


@pytest.mark.parametrize("image_shape", [(32, 32, 3), (28, 28, 1), (8, 8, 1), (16, 8, 3)])
def test_shapes_and_dtypes_in_bfloat16(image_shape):
    multipliers = default_multipliers(image_shape)
    encoder = Encoder(6, 8, multipliers, num_blocks=2, dtype=jnp.bfloat16)
    decoder = Decoder(image_shape, 8, multipliers, num_blocks=2, dtype=jnp.bfloat16)
    features, encoder_variables = jax.eval_shape(encoder.init_with_output, jax.random.key(0), jnp.zeros((2, *image_shape)))
    image, decoder_variables = jax.eval_shape(decoder.init_with_output, jax.random.key(0), jnp.zeros((2, 3)))
    assert (features.shape, features.dtype) == ((2, 6), jnp.float32)
    assert (image.shape, image.dtype) == ((2, *image_shape), jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves((encoder_variables, decoder_variables))} == {jnp.dtype("float32")}


def test_a_residual_block_starts_as_the_identity_and_the_decoder_at_grey():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    output, _ = ResidualBlock().init_with_output(jax.random.key(1), x)
    np.testing.assert_array_equal(output, x)
    image, _ = Decoder((8, 8, 1), 8, (1,)).init_with_output(jax.random.key(1), jnp.ones((2, 3)))
    np.testing.assert_array_equal(image, np.zeros((2, 8, 8, 1)))


def test_upsampling_places_every_pixel():
    x = jnp.arange(2 * 2 * 3 * 4.0).reshape(2, 2, 3, 4)
    doubled, patches = upsample_nearest(x), depth_to_space(x)
    assert doubled.shape == (2, 4, 6, 4)
    assert patches.shape == (2, 4, 6, 1)
    for i in range(4):
        for j in range(6):
            np.testing.assert_array_equal(doubled[:, i, j], x[:, i // 2, j // 2])
            np.testing.assert_array_equal(patches[:, i, j, 0], x[:, i // 2, j // 2, 2 * (i % 2) + j % 2])
