"""Who sees whom, and that the sampler that remembers draws what the one that recomputes draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.nets.pixelcnn import GatedPixelCNN, before, draw, neighbours, push, sample

HEIGHT, WIDTH, CODES = 4, 5, 7
GRID = (HEIGHT, WIDTH)


def random_weights(net, codes, labels=None):
    """Weights and biases with no zero left. Nothing is compiled."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), codes, labels)["params"]
    draw = np.random.default_rng(0).normal
    return jax.tree.map(lambda leaf: jnp.float32(draw(size=leaf.shape) / np.sqrt(leaf.shape[0])), shapes)


def network(num_layers, reach=1, num_classes=None):
    """A network, weights and codes."""
    net = GatedPixelCNN(CODES, 8, num_layers, reach, num_classes)
    codes = np.random.default_rng(0).integers(0, CODES, (3, *GRID))
    return net, random_weights(net, codes, None if num_classes is None else jnp.zeros(3, int)), codes


def sees(num_layers, reach):
    """[h, w, h', w']: does the gradient of the logits at (h, w) by the vector at (h', w') differ from zero?"""
    net, params, codes = network(num_layers, reach)
    weights = np.random.default_rng(2).normal(size=CODES)

    def scores(embedded):
        return net.apply({"params": params}, embedded[None], method="from_embedded")[0] @ weights

    embedded = params["embedding"]["embedding"][codes[0]]
    return np.abs(jax.jit(jax.jacrev(scores))(embedded)).max(-1) > 0


@pytest.mark.parametrize("num_layers, reach", [(1, 1), (1, 2)])
def test_a_position_sees_its_receptive_field_and_nothing_else(num_layers, reach):
    far = num_layers * reach
    field = np.zeros((*GRID, *GRID), bool)
    for r, c, above, beside in np.ndindex(field.shape):
        in_rows_above = 1 <= r - above <= far + 1 and abs(c - beside) <= far
        in_own_row = r == above and 1 <= c - beside <= far + 1
        field[r, c, above, beside] = in_rows_above or in_own_row
    np.testing.assert_array_equal(sees(num_layers, reach), field)


def test_a_position_sees_all_codes_before_it_and_neither_itself_nor_a_later_one():
    order = np.arange(HEIGHT * WIDTH)
    seen = sees(num_layers=4, reach=1).reshape(len(order), len(order))
    np.testing.assert_array_equal(seen, order[None, :] < order[:, None])


def test_windows():
    x = np.arange(1.0, 5.0).reshape(1, 4, 1)
    around = jax.jit(lambda x: neighbours(x, 1, 2, 1))(x)
    np.testing.assert_array_equal(around[0], [[0, 0, 1, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 0]])
    np.testing.assert_array_equal(before(x, 1)[0, :, 0], [0, 1, 2, 3])
    window, pushed = np.zeros((1, 3)), jax.jit(push)
    for i in range(4):
        window = pushed(window, x[:, i])
        np.testing.assert_array_equal(window, around[:, i, :3])


def test_a_sample_depends_on_its_own_key_alone():
    net, params, _ = network(2)
    keys = jax.random.split(jax.random.key(3), 6)
    some = jax.jit(partial(sample, net, grid=GRID))
    np.testing.assert_array_equal(some(params, keys)[4:], some(params, keys[4:]))


def test_codes_are_drawn_from_the_softmax():
    logits, n = jnp.array([0.0, 1.0, -1.0]), 20_000
    codes = draw(jax.random.split(jax.random.key(0), n), 5, jnp.broadcast_to(logits, (n, 3)), 0.5)
    expected = np.asarray(jax.nn.softmax(logits / 0.5))
    errors = np.sqrt(expected * (1 - expected) / n)
    np.testing.assert_array_less(np.abs(np.bincount(codes) / n - expected), 4 * errors)


def test_samples_have_the_probability_that_the_network_gives_them():
    """All grids of two codes can be counted: frequencies against products of conditionals, which sum to one."""
    net, grid, n = GatedPixelCNN(2, 4, 2), (2, 2), 20_000
    codes = np.stack(np.unravel_index(np.arange(16), (2,) * 4), 1).reshape(16, 2, 2)
    params = random_weights(net, codes)
    log_probs = jax.nn.log_softmax(jax.jit(net.apply)({"params": params}, codes))
    probs = np.exp(np.take_along_axis(np.asarray(log_probs), codes[..., None], -1).sum((1, 2, 3)))
    np.testing.assert_allclose(probs.sum(), 1, rtol=1e-5)
    drawn = jax.jit(partial(sample, net, grid=grid))(params, jax.random.split(jax.random.key(0), n))
    frequency = np.bincount(drawn.reshape(n, 4) @ np.array([8, 4, 2, 1]), minlength=16) / n
    np.testing.assert_array_less(np.abs(frequency - probs), 4 * np.sqrt(probs * (1 - probs) / n) + 1e-9)
    assert probs.max() / probs.min() > 3  # not the uniform distribution, which a broken network would give


def test_a_label_changes_every_position():
    net, params, codes = network(2, num_classes=3)
    logits = jax.jit(net.apply)({"params": params}, codes[jnp.array([0, 0, 0])], jnp.arange(3))
    for a, b in ((0, 1), (1, 2)):
        assert np.all(np.abs(logits[a] - logits[b]).max(-1) > 1e-3)


def test_logits_are_float32_also_in_bfloat16():
    net = GatedPixelCNN(CODES, 8, 2, dtype=jnp.bfloat16)
    logits, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), jnp.zeros((2, *GRID), int))
    assert logits.shape == (2, *GRID, CODES) and logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert (
        jax.eval_shape(partial(sample, net, grid=GRID), variables["params"], jax.random.split(jax.random.key(0), 2)).dtype
        == jnp.int32
    )
