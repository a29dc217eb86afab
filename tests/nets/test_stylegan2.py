"""StyleGAN2's networks: the sizes of the official code, filters of unit norm, and its operations written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.nets import stylegan2
from gm_jax.nets.song_unet import double
from gm_jax.nets.stylegan2 import Discriminator, Mapping, Synthesis
from tests.weights import count, drawn

SHAPE = (8, 8, 3)
KEYS = jax.random.split(jax.random.key(0), 4)


def shapes(net, *inputs):
    return jax.eval_shape(net.init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
    ("classes", "generator", "discriminator"), [(None, 19_947_539, 20_720_641), (10, 20_215_315, 23_089_664)]
)
def test_sizes_are_those_of_the_official_networks(classes, generator, discriminator):
    shape, labels = (32, 32, 3), None if classes is None else jnp.zeros(2, int)
    mapping = shapes(Mapping(num_classes=classes), jnp.zeros((2, 512)), labels)
    synthesis = shapes(Synthesis(shape), jnp.zeros((2, 8, 512)), KEYS[:2])
    assert stylegan2.num_layers(shape) == 8
    assert count(mapping) + count(synthesis) == generator
    assert count(shapes(Discriminator(num_classes=classes), jnp.zeros((2, *shape)), labels)) == discriminator


@pytest.mark.parametrize("up", [False, True])
def test_modulated_convolution_is_one_by_each_examples_own_filters_of_unit_norm(up):
    x, kernel, scale = (
        jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(3, 5, 5, 4), (3, 3, 4, 6), (3, 4)])
    )
    own = kernel[None] * scale[:, None, None, :, None]
    norm = jnp.sqrt((own**2).sum((1, 2, 3)))
    np.testing.assert_allclose(norm * stylegan2.demodulation(kernel, scale), 1, rtol=1e-5)
    one = stylegan2.conv_up if up else stylegan2.conv
    expected = jnp.concatenate([one(x[i : i + 1], own[i] / norm[i]) for i in range(3)])
    np.testing.assert_allclose(stylegan2.modulated_conv(x, kernel, scale, up), expected, rtol=1e-4, atol=1e-5)


def test_the_convolution_that_doubles_is_the_one_of_zeros_between_pixels():
    x, kernel = jax.random.normal(jax.random.key(0), (2, 5, 6, 3)), jax.random.normal(jax.random.key(1), (3, 3, 3, 4))
    spread = jnp.zeros((2, 10, 12, 3)).at[:, ::2, ::2].set(x)
    spread = jnp.pad(spread, [(0, 0), (3, 2), (3, 2), (0, 0)])
    taps = jnp.array([1, 3, 3, 1]) / 4
    filtered = sum(taps[i] * taps[j] * spread[:, i : i + 12, j : j + 14] for i in range(4) for j in range(4))
    expected = jax.lax.conv_general_dilated(filtered, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(stylegan2.conv_up(x, kernel), expected, rtol=1e-4, atol=1e-4)
    middle = jnp.zeros((3, 3, 3, 3)).at[1, 1].set(jnp.eye(3))
    np.testing.assert_allclose(
        stylegan2.conv_up(x, middle)[:, 1:-1, 1:-1], double(x, fir=True)[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("style", ["demodulation", "adain"])
def test_each_layer_looks_at_its_own_w_and_at_noise_of_its_own_example(style):
    net = Synthesis(SHAPE, 4, style)
    ws = jax.random.normal(jax.random.key(1), (4, 4, 4))
    params = {"params": drawn(shapes(net, ws, KEYS)["params"])}
    x = net.apply(params, ws, KEYS)
    for layer in range(4):
        assert float(jnp.abs(net.apply(params, ws.at[:, layer].add(1.0), KEYS) - x).max()) > 1e-3
    np.testing.assert_allclose(net.apply(params, ws[:2], KEYS[:2]), x[:2], rtol=1e-3, atol=1e-4)
    assert float(jnp.abs(net.apply(params, ws, None) - x).max()) > 1e-3


def test_adain_gives_each_map_the_mean_and_spread_that_it_is_told():
    x, scale, shift = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(3, 6, 6, 4), (3, 4), (3, 4)]))
    y = stylegan2.adaptive_instance_norm(x, scale, shift)
    np.testing.assert_allclose(y.mean((1, 2)), shift, atol=1e-5)
    np.testing.assert_allclose(y.std((1, 2)), abs(scale), rtol=1e-3)


def test_the_spread_of_a_group_is_seen_by_all_of_it():
    x = np.random.default_rng(0).standard_normal((64, 2, 2, 3)).astype(np.float32)
    y = stylegan2.with_batch_std(jnp.asarray(x))
    np.testing.assert_array_equal(y[..., :3], x)
    for first in (0, 1):  # two groups of 32: the even and the odd ones
        expected = np.sqrt(x[first::2].var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(y[first::2, :, :, 3], expected, rtol=1e-5)
    same = stylegan2.with_batch_std(jnp.ones((4, 2, 2, 3)))[..., 3]
    np.testing.assert_allclose(same, 1e-4, rtol=1e-3)


def test_other_sizes_are_refused():
    for shape in ((12, 12, 1), (8, 16, 3), (2, 2, 1)):
        with pytest.raises(InputError, match="resize"):
            stylegan2.num_layers(shape)
