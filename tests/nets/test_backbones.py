"""Networks by name: that all are called alike, told their time, and refuse what does not fit them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.nets.backbones import BACKBONES, backbone, find
from tests.weights import drawn

TINY = {
    "dit": ({"channels": 8, "depth": 1, "num_heads": 2}, (4, 4, 2)),
    "mlp": ({"channels": 8, "depth": 2}, (3,)),
    "refinenet": ({"channels": 4, "channel_multipliers": (1,), "num_res_blocks": 1}, (4, 4, 2)),
    "song_unet": ({"channels": 8, "channel_multipliers": 1, "num_res_blocks": 1}, (4, 4, 2)),
    "unet": ({"channels": 8, "channel_multipliers": 1, "num_res_blocks": 1, "attention_resolutions": ()}, (4, 4, 2)),
    "uvit": ({"channels": 8, "depth": 3, "num_heads": 2}, (4, 4, 2)),
}
CONDITIONAL = ["dit", "mlp", "song_unet", "unet", "uvit"]  # the others take no condition


def tiny(name, **settings):
    own, shape = TINY[name]
    return backbone({"name": name, **own, **settings}, shape, num_levels=5), shape


def inputs(shape, size=None):
    condition = None if size is None else jnp.eye(3, size)
    return jax.random.normal(jax.random.key(1), (3, *shape)), jnp.array([0.0, 1.0, 4.0]), condition


def test_every_network_is_tried_here():
    assert TINY.keys() == BACKBONES.keys()
    assert set(CONDITIONAL) <= TINY.keys()


@pytest.mark.parametrize("name", TINY)
def test_answers_are_shaped_as_x_in_float32_and_depend_on_each_examples_own_time(name):
    net, shape = tiny(name)
    x, t, _ = inputs(shape)
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x, t, None))
    apply = jax.jit(net.apply)
    answer, other = apply(params, x, t, None), apply(params, x, t[::-1], None)
    assert answer.shape == x.shape and answer.dtype == jnp.float32
    changed = jnp.abs(answer - other).max(tuple(range(1, x.ndim)))
    assert changed[0] > 1e-3 and changed[2] > 1e-3
    np.testing.assert_allclose(changed[1], 0, atol=1e-5)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_condition_is_told_to_each_example(name):
    net, shape = tiny(name)
    x, t, condition = inputs(shape, 4)
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x, t, condition))
    apply = jax.jit(net.apply)
    changed = jnp.abs(apply(params, x, t, condition) - apply(params, x, t, condition.at[0].set(0)))
    changed = changed.max(tuple(range(1, x.ndim)))
    assert changed[0] > 1e-3
    np.testing.assert_allclose(changed[1:], 0, atol=1e-5)


@pytest.mark.parametrize("name", TINY.keys() - set(CONDITIONAL))
def test_networks_that_take_no_labels_say_so(name):
    net, shape = tiny(name)
    with pytest.raises(InputError, match=f"{name} takes no labels"):
        jax.eval_shape(net.init, jax.random.key(0), *inputs(shape, 4))


@pytest.mark.parametrize("name", ["dit", "mlp", "unet", "uvit"])
def test_dropout_acts_in_training_only(name):
    net, shape = tiny(name, dropout=0.5)
    x, t, _ = inputs(shape)
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x, t, None))
    apply = jax.jit(net.apply, static_argnames="train")
    one, two = (apply(params, x, t, None, train=True, key=jax.random.key(i)) for i in (0, 1))
    still, still_too = (apply(params, x, t, None, train=False, key=jax.random.key(i)) for i in (0, 1))
    assert jnp.abs(one - two).max() > 1e-3
    np.testing.assert_array_equal(still, still_too)


def test_perceptrons_answer_nothing_before_training():
    net, shape = tiny("mlp")
    x, t, condition = inputs(shape, 4)
    assert not net.apply(net.init(jax.random.key(0), x, t, condition), x, t, condition).any()


@pytest.mark.parametrize("name", TINY)
def test_half_precision_keeps_float32_weights_and_answers(name):
    own, shape = TINY[name]
    net = backbone({"name": name, **own}, shape, jnp.bfloat16)
    x, t, _ = inputs(shape)
    params = jax.eval_shape(net.init, jax.random.key(0), x, t, None)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert jax.eval_shape(net.apply, params, x, t, None).dtype == jnp.float32
    assert "bf16" in str(jax.make_jaxpr(net.apply)(params, x, t, None))


def test_the_clock_is_the_models_choice_unless_it_is_set():
    assert tiny("unet")[0].clock == "auto"
    assert tiny("unet", clock="log_sigma")[0].clock == "log_sigma"


@pytest.mark.parametrize(
    ("settings", "shape", "reason"),
    [
        ({"name": "vit"}, (8, 8, 1), "unknown network 'vit'; choose dit, mlp, refinenet, song_unet, unet, uvit"),
        ({"name": "unet", "depth": 3}, (8, 8, 1), "network 'unet': .*'depth'"),
        ({"name": "refinenet", "channels": 0}, (8, 8, 1), "channels is 0; give a whole number of at least 1"),
        ({"name": "unet", "channels": 5}, (8, 8, 1), "channels is 5; give a whole number that is even and at least 4"),
        ({"name": "mlp", "channels": 2}, (2,), "channels is 2; give a whole number that is even and at least 4"),
        ({"name": "unet", "dropout": 1.0}, (8, 8, 1), r"dropout is 1.0; give a number in \[0, 1\)"),
        ({"name": "unet", "clock": "sundial"}, (8, 8, 1), "clock is 'sundial'"),
        ({"name": "unet", "channel_multipliers": (1, 2, 2)}, (6, 6, 1), "6x6 cannot be halved 2 times"),
        ({"name": "refinenet"}, (7, 8, 1), "7x8 cannot be halved 1 times"),
        ({"name": "unet"}, (2,), "network unet is for images, not for points of 2 numbers; take mlp"),
        ({"name": "refinenet"}, (2,), "network refinenet is for images"),
        ({"name": "mlp"}, (8, 8, 1), "network mlp is for points, not for images of 8x8x1; take unet"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(settings, shape, reason):
    with pytest.raises(InputError, match=reason):
        backbone(settings, shape)
    assert find("unet") is BACKBONES["unet"]
