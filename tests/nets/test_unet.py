from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.nets.layers import upsample_nearest
from gm_jax.nets.unet import AttentionBlock, SinusoidalPositionEmbeddings, UNet, check_divisible
from tests.weights import drawn

SMALL = {"channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,)}


def shapes(net, shape):
    x, t = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.float32)
    return jax.eval_shape(net.init_with_output, jax.random.key(0), x, t)


def count(variables):
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def random_weights(net, shape):
    """Weights with no zero left, so that the network answers something. Nothing is compiled."""
    _, variables = shapes(net, shape)
    draw = np.random.default_rng(0).normal
    offset = lambda path: float(path[-1].key == "scale")  # noqa: E731  (of the norms: about one)
    return jax.tree_util.tree_map_with_path(lambda path, w: jnp.float32(offset(path) + 0.1 * draw(size=w.shape)), variables)


@pytest.fixture(scope="module")
def trained_like():
    net = UNet(out_channels=1, dropout=0.5, **SMALL)
    return net, random_weights(net, (1, 8, 8, 1))


@pytest.fixture(scope="module")
def inputs():
    return jax.random.normal(jax.random.key(2), (3, 8, 8, 1)), jnp.array([0.0, 5.0, 900.0])


def test_cifar10_network_has_the_parameters_of_the_paper():
    out, variables = shapes(UNet(out_channels=3), (2, 32, 32, 3))
    assert count(variables) == 35_746_307
    assert out.shape == (2, 32, 32, 3) and out.dtype == jnp.float32


def test_attention_is_at_16x16_and_in_the_middle_only():
    _, variables = shapes(UNet(out_channels=3), (1, 32, 32, 3))
    where = sorted(name for name in variables["params"] if name.endswith("attention"))
    down, up = [f"down1_block{i}_attention" for i in range(2)], [f"up1_block{i}_attention" for i in range(3)]
    assert where == sorted(down + up + ["middle_attention"])


@pytest.mark.parametrize(
    "shape, multipliers", [((2, 8, 8, 1), (1, 2)), ((2, 28, 28, 1), (1, 2, 2)), ((1, 16, 8, 4), (1, 1, 2))]
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_output_has_the_shape_of_the_input_in_float32(shape, multipliers, dtype):
    net = UNet(out_channels=shape[-1], channels=8, channel_multipliers=multipliers, num_res_blocks=1, dtype=dtype)
    out, variables = shapes(net, shape)
    assert out.shape == shape and out.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(InputError, match="28x28 cannot be halved 3 times.*channel_multipliers"):
        check_divisible((28, 28), (1, 2, 2, 2))
    with pytest.raises(InputError, match="channel_multipliers"):
        shapes(UNet(out_channels=1), (1, 28, 28, 1))


def test_blocks_are_the_identity_and_the_network_zero_at_initialisation():
    net, x = UNet(out_channels=1, **SMALL), jnp.zeros((1, 8, 8, 1))
    last = (("conv_out",), ("down0_block0", "conv1"), ("up1_block1", "conv1"), ("middle_attention", "out"))

    @jax.jit
    def init(key):
        params = net.init(key, x, jnp.zeros(1))["params"]
        layers = [params[name[0]][name[1]] if len(name) > 1 else params[name[0]] for name in last]
        return layers, params["down0_block0"]["conv0"]["kernel"]

    zero, kernel = init(jax.random.key(0))
    assert all(jnp.all(leaf == 0) for leaf in jax.tree.leaves(zero))
    limit = (3 / ((72 + 72) / 2)) ** 0.5  # uniform, variance 1 / mean of fan-in and fan-out
    assert 0.9 * limit < jnp.abs(kernel).max() < limit


def test_every_image_is_told_its_own_time(trained_like, inputs):
    net, variables = trained_like
    x, t = inputs
    apply = jax.jit(net.apply)
    together = apply(variables, x, t)
    for i in range(3):
        np.testing.assert_allclose(together[i], apply(variables, x, jnp.full(3, t[i]))[i], atol=1e-4)
    assert jnp.abs(apply(variables, x, t + 1) - together).max() > 1e-3


def test_a_condition_is_added_to_the_time_embedding_and_is_no_part_of_the_network_without_one(inputs):
    net, (x, t) = UNet(out_channels=1, channels=4, channel_multipliers=(1,), num_res_blocks=1, attention_resolutions=()), inputs
    condition = jnp.eye(3, 5)
    with_one = jax.eval_shape(net.init, jax.random.key(0), x, t, condition)
    without = jax.eval_shape(net.init, jax.random.key(0), x, t)
    assert with_one["params"].pop("condition")["kernel"].shape == (5, 16)
    assert jax.tree.map(jnp.shape, with_one) == jax.tree.map(jnp.shape, without)
    variables, apply = drawn(jax.eval_shape(net.init, jax.random.key(0), x, t, condition)), jax.jit(net.apply)
    told, other, nothing = (apply(variables, x, t, c) for c in (condition, condition[::-1], 0 * condition))
    assert jnp.abs(told - nothing).max((1, 2, 3)).min() > 1e-3
    np.testing.assert_allclose(told[1], other[1], atol=1e-5)  # each image its own
    assert jnp.abs(told - other)[jnp.array([0, 2])].max((1, 2, 3)).min() > 1e-3


@pytest.fixture(scope="module")
def smallest():
    net = UNet(out_channels=1, channels=4, channel_multipliers=(1,), num_res_blocks=1, attention_resolutions=(), dropout=0.5)
    return net, random_weights(net, (1, 8, 8, 1))


def test_dropout_acts_in_training_only_and_remat_changes_nothing(smallest, inputs):
    net, variables = smallest
    remat = net.clone(remat=True)
    assert jax.tree.map(jnp.shape, shapes(remat, (1, 8, 8, 1))[1]) == jax.tree.map(jnp.shape, variables)

    def train(net, key):
        return net.apply(variables, *inputs, train=True, rngs={"dropout": key})

    gradient = jax.grad(lambda x: remat.apply(variables, x, inputs[1], train=True, rngs={"dropout": jax.random.key(0)}).sum())
    assert "remat" in str(jax.make_jaxpr(gradient)(inputs[0]))
    both = jax.jit(lambda key: (train(net, key), train(remat, key), net.apply(variables, *inputs)))
    (one, one_remat, still), (two, _, still_too) = both(jax.random.key(0)), both(jax.random.key(1))
    np.testing.assert_allclose(one, one_remat, rtol=1e-4, atol=1e-5)
    assert jnp.abs(one - two).max() > 1e-3
    np.testing.assert_array_equal(still, still_too)


def test_bfloat16_computes_nearly_the_same(trained_like, inputs):
    net, variables = trained_like
    exact, rounded = (jax.jit(n.apply)(variables, *inputs) for n in (net, net.clone(dtype=jnp.bfloat16)))
    difference = jnp.abs(exact - rounded).max() / jnp.abs(exact).max()
    assert 0 < difference < 0.1


def test_attention_block_equals_softmax_attention_by_hand():
    block, x = AttentionBlock(), jax.random.normal(jax.random.key(0), (1, 2, 3, 8))
    variables = block.init(jax.random.key(1), x)
    np.testing.assert_array_equal(block.apply(variables, x), x)  # the identity at initialisation

    params = variables["params"]
    params["out"]["kernel"] = jax.random.normal(jax.random.key(2), (8, 8))
    h = np.asarray(x, np.float64).reshape(6, 2, 4)  # 6 pixels, 2 groups of 4 channels
    h = (h - h.mean((0, 2), keepdims=True)) / np.sqrt(h.var((0, 2), keepdims=True) + 1e-6)
    query, key, value = (h.reshape(6, 8) @ params[name]["kernel"] for name in ("query", "key", "value"))
    weights = np.exp(query @ key.T / np.sqrt(8))
    attended = (weights / weights.sum(1, keepdims=True)) @ value @ params["out"]["kernel"]
    np.testing.assert_allclose(block.apply(variables, x)[0], x[0] + attended.reshape(2, 3, 8), atol=1e-4)


def test_sinusoidal_embeddings_equal_the_formula():
    t = jnp.array([0.0, 1.0, 37.5, 999.0])
    emb = SinusoidalPositionEmbeddings(128).apply({}, t)
    angles = np.asarray(t)[:, None] * 10000.0 ** (-np.arange(64) / 63)
    np.testing.assert_allclose(emb, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=2e-4)


def test_upsample_repeats_pixels():
    up = upsample_nearest(jnp.arange(4.0).reshape(1, 2, 2, 1))[0, :, :, 0]
    np.testing.assert_array_equal(up, [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]])


def test_in_half_precision_only_the_first_and_last_convolutions_are_not():
    """A float32 feature map among the blocks would make all that it is added to float32, too."""
    net = UNet(out_channels=1, **SMALL, dtype=jnp.bfloat16)
    x, t = jnp.ones((1, 8, 8, 1)), jnp.ones(1)
    variables = jax.eval_shape(net.init, jax.random.key(0), x, t)
    apply = partial(net.apply, capture_intermediates=True, mutable=["intermediates"])
    out, kept = jax.eval_shape(apply, variables, x, t)
    blocks = {name: module["__call__"][0].dtype for name, module in kept["intermediates"].items() if "block" in name}
    assert len(blocks) > 5 and set(blocks.values()) == {jnp.dtype(jnp.bfloat16)}
    assert out.dtype == jnp.float32
