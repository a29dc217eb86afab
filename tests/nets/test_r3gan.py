"""R3GAN's networks: the sizes of the authors' own, what initialisation promises, and their convolutions and resampling."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.nets.r3gan import GAIN, Discriminator, Generator, grouped_conv, num_stages
from gm_jax.nets.song_unet import double, half
from tests.weights import count, drawn

SMALL = {"channels": 8, "groups": 2}
SHAPE = (8, 8, 1)
Z = jax.random.normal(jax.random.key(0), (3, 5))
X = jax.random.normal(jax.random.key(1), (3, *SHAPE))
LABELS = jnp.array([0, 3, 1])


def nets(num_classes=None, **settings):
    settings = SMALL | settings
    return (Generator(SHAPE, num_classes, **settings), Z), (Discriminator(num_classes, **settings), X)


def shapes(net, *inputs):
    return jax.eval_shape(net.init, jax.random.key(0), *inputs)


@pytest.mark.parametrize(
    ("classes", "generator", "discriminator"), [(10, 20_781_952, 21_280_512), (None, 20_732_160, 20_683_776)]
)
def test_sizes_are_those_of_the_authors_networks(classes, generator, discriminator):
    labels = None if classes is None else jnp.zeros(1, int)
    assert count(shapes(Generator((32, 32, 3), classes), jnp.zeros((1, 64)), labels)) == generator
    assert count(shapes(Discriminator(classes), jnp.zeros((1, 32, 32, 3)), labels)) == discriminator


def test_fresh_blocks_add_nothing_and_keep_their_variance():
    for net, x in nets(channels=64, groups=4):
        params = jax.jit(net.init)(jax.random.key(1), x)["params"]
        assert not any(params[name]["out"]["kernel"].any() for name in params if "block" in name)
        rest = {name: value for name, value in params.items() if "block" not in name}
        none = net.clone(num_res_blocks=0)
        full, bare = jax.jit(net.apply)({"params": params}, x), jax.jit(none.apply)({"params": rest}, x)
        np.testing.assert_allclose(full, bare, rtol=1e-5, atol=1e-6)
        for layer, fan_in in (("in", 64), ("grouped", 9 * 128 / 4)):  # four blocks: L^(-1/4)
            expected = GAIN * 4**-0.25 / np.sqrt(fan_in)
            np.testing.assert_allclose(params["stage1_block0"][layer]["kernel"].std(), expected, rtol=0.05)
            assert not params["stage1_block0"][layer]["bias"].any()


@pytest.mark.parametrize("classes", [None, 4])
def test_each_example_is_seen_by_itself_and_labels_matter(classes):
    labels = LABELS if classes else None
    for net, x in nets(classes):
        params = drawn(shapes(net, x, labels))
        answer = net.apply(params, x, labels)
        assert answer.shape == ((3, *SHAPE) if x is Z else (3,)) and answer.dtype == jnp.float32
        one = net.apply(params, x[1:2], None if labels is None else labels[1:2])
        np.testing.assert_allclose(one, answer[1:2], rtol=1e-4, atol=1e-6)
        if classes:
            moved = jnp.abs(net.apply(params, x, labels.at[0].set(2)) - answer).reshape(3, -1).max(1)
            assert moved[0] > 1e-3 and not moved[1:].any()


def test_the_cpus_grouped_convolution_is_the_grouped_convolution():
    x, kernel, target = (
        jax.random.normal(jax.random.key(i), s) for i, s in enumerate([(2, 5, 4, 12), (3, 3, 4, 6), (2, 5, 4, 6)])
    )

    def plain(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=3)

    def values(conv):
        loss = lambda x, kernel: ((conv(x, kernel) - target) ** 2).sum()  # noqa: E731
        return jax.jit(lambda *args: (conv(*args), *jax.grad(loss, (0, 1))(*args)))(x, kernel)

    for ours, theirs in zip(values(grouped_conv), values(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_resampling_repeats_or_drops_pixels_and_filters_by_1_2_1():
    """A constant stays constant, but at the border, outside which there are zeros."""
    taps = np.outer([1, 2, 1], [1, 2, 1]) / 16
    smooth = lambda x: np.sum([taps[i, j] * x[i : i + 8, j : j + 8] for i in range(3) for j in range(3)], 0)  # noqa: E731
    small, large = np.asarray(X)[0, :4, :4], np.asarray(X)[0]
    expected = smooth(np.pad(small.repeat(2, 0).repeat(2, 1), ((1, 1), (1, 1), (0, 0))))
    np.testing.assert_allclose(double(small[None], True)[0], expected, atol=1e-6)
    wide = smooth(np.pad(large, ((1, 1), (1, 1), (0, 0))))  # not its border: zeros come behind the mean of pairs
    inner = wide.reshape(4, 2, 4, 2, 1).mean((1, 3))[1:3, 1:3]
    np.testing.assert_allclose(half(large[None], True)[0, 1:3, 1:3], inner, atol=1e-6)
    ones = jnp.ones((1, 8, 8, 2))
    np.testing.assert_allclose(double(ones, True)[:, 1:-1, 1:-1], 1, rtol=1e-6)
    np.testing.assert_allclose(half(ones, True)[:, 1:-1, 1:-1], 1, rtol=1e-6)


def test_remat_and_half_precision():
    for (net, x), (remat, _), (halved, _) in zip(
        *(nets(num_res_blocks=1, **settings) for settings in ({}, {"remat": True}, {"dtype": jnp.bfloat16})), strict=True
    ):
        params = drawn(shapes(net, x))

        def both(net, params=params, x=x):
            return jax.value_and_grad(lambda x: (answer := net.apply(params, x)).sum() / answer.size)(x)

        assert "remat" in str(jax.make_jaxpr(both, 0)(remat)) and "remat" not in str(jax.make_jaxpr(both, 0)(net))
        expected = jax.jit(both, static_argnums=0)(net)
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), jax.jit(both, static_argnums=0)(remat), expected
        )
        answer, near = (jax.jit(net.apply)(params, x) for net in (net, halved))
        assert near.dtype == jnp.float32 and 0 < jnp.abs(near - answer).max() < 0.05 * jnp.abs(answer).max()


def test_bad_settings_are_one_line():
    assert [num_stages((side, side, 3)) for side in (4, 8, 32, 64)] == [1, 2, 4, 5]
    for shape in ((28, 28, 1), (8, 16, 3), (2, 2, 1), (12, 12, 1)):
        with pytest.raises(InputError, match=f"sides of 4, 8, 16, 32 ..., not of {shape[0]}x{shape[1]}"):
            num_stages(shape)
    for (net, x), labels, message in [
        (nets(groups=3)[0], None, r"groups=3 does not divide expansion \* channels = 16; take 1"),
        (nets()[0], LABELS, "num_classes is None, so labels are not taken"),
        (nets(4)[1], None, "num_classes is 4, so labels are needed"),
    ]:
        with pytest.raises(InputError, match=message):
            shapes(net, x, labels)
