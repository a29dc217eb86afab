"""DiT and U-ViT: the sizes of the authors' networks, patches and positions, and what they are told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.nets import dit
from gm_jax.nets.backbones import backbone
from gm_jax.nets.transformer import fitting_patch, patchify, positions, unpatchify
from tests.weights import count, drawn

FIXED = 256 * 384  # positions of DiT, which the authors keep among the parameters and do not train
SMALL = {"dit": {"name": "dit", "depth": 2}, "uvit": {"name": "uvit", "depth": 3}}
X = np.random.default_rng(0).normal(size=(3, 8, 8, 1)).astype(np.float32)
T = jnp.array([1.0, 500.0, 900.0])


def made(name, num_classes=None, **settings):
    net = backbone({**SMALL[name], "channels": 16, "num_heads": 2, **settings}, X.shape[1:], num_classes=num_classes)
    condition = None if num_classes is None else jnp.eye(3, num_classes)
    return net, drawn(jax.eval_shape(net.init, jax.random.key(0), X, T, condition)), condition


@pytest.mark.parametrize(
    ("name", "classes", "out", "parameters"),
    [  # of the authors' classes
        ("dit", 1000, 6, 32_958_744 - FIXED),
        ("dit", 10, 6, 32_578_584 - FIXED),
        ("uvit", None, 3, 44_255_328),
    ],
)
def test_sizes_are_those_of_the_authors_networks(name, classes, out, parameters):
    net = backbone({"name": name}, (32, 32, 3), num_classes=classes, out_channels=out)
    condition = jnp.zeros((1, classes)) if classes else None
    assert count(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)), jnp.zeros(1), condition)) == parameters


def test_patches_are_cut_row_by_row_and_put_together_again():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    patches = patchify(x, 2)
    np.testing.assert_array_equal(patches[1, 4].reshape(2, 2, 3), x[1, 2:4, 2:4])
    np.testing.assert_array_equal(unpatchify(patches, (4, 6), 2), x)
    assert [fitting_patch((side, side)) for side in (8, 28, 32, 64, 128)] == [2, 2, 2, 4, 8]


def test_positions_tell_rows_from_columns():
    table = positions(3, 5, 16).reshape(3, 5, 16)
    np.testing.assert_array_equal(table[:, 0, :8], table[:, :1, :8][:, 0])
    assert np.abs(np.diff(table[..., :8], axis=0)).max() == 0 and np.abs(np.diff(table[..., 8:], axis=1)).max() == 0
    assert len(np.unique(table.reshape(15, 16).round(5), axis=0)) == 15
    np.testing.assert_allclose(table[2, 3, 0], np.sin(3), rtol=1e-6)


def test_a_fresh_dit_answers_zero_and_its_blocks_add_nothing():
    net, _, _ = made("dit")
    params = net.init(jax.random.key(1), X, T, None)
    assert not net.apply(params, X, T, None).any()
    params["out"]["kernel"] = jax.random.normal(jax.random.key(2), params["out"]["kernel"].shape)
    without = {k: v for k, v in params.items() if not k.startswith("block")}
    none = backbone({**SMALL["dit"], "channels": 16, "num_heads": 2, "depth": 1}, X.shape[1:])
    one_block = without | {"block0": params["block1"]}
    np.testing.assert_array_equal(net.apply(params, X, T, None), none.apply(one_block, X, T, None))


@pytest.mark.parametrize("name", SMALL)
def test_it_sees_each_example_by_itself(name):
    net, params, _ = made(name)
    answer = net.apply(params, X, T, None)
    np.testing.assert_allclose(net.apply(params, X[1:2], T[1:2], None), answer[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_positions_alone_give_patches_an_order(name, monkeypatch):
    net, params, _ = made(name)
    if name == "uvit":  # whose last convolution sees patches side by side: of it, a pixel's own weights alone
        params["conv_out"]["kernel"] *= np.pad([[1.0]], 1)[..., None, None]

    def moved_by_order():
        reverse = lambda x: unpatchify(patchify(jnp.asarray(x), 2)[:, ::-1], (8, 8), 2)  # noqa: E731
        return jnp.abs(reverse(net.apply(params, reverse(X), T, None)) - net.apply(params, X, T, None)).max()

    assert moved_by_order() > 1e-2
    monkeypatch.setattr(dit, "positions", lambda *sizes: 0 * positions(*sizes))
    if name == "uvit":
        params["positions"] *= 0
    assert moved_by_order() < 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_remat_changes_nothing(name):
    net, params, labels = made(name, num_classes=4, dropout=0.5)
    remat, _, _ = made(name, num_classes=4, dropout=0.5, remat=True)

    def gradient(net):
        return jax.grad(lambda x: net.apply(params, x, T, labels, train=True, key=jax.random.key(0)).sum())

    assert "remat" in str(jax.make_jaxpr(gradient(remat))(X)) and "remat" not in str(jax.make_jaxpr(gradient(net))(X))
    np.testing.assert_allclose(jax.jit(gradient(remat))(X), jax.jit(gradient(net))(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_time_and_label_matter_and_no_label_is_one_of_its_own(name):
    net, params, labels = made(name, num_classes=4)
    answer = lambda t, labels: net.apply(params, X, t, labels)  # noqa: E731
    given = answer(T, labels)
    for other in (answer(T + 100, labels), answer(T, labels[::-1]), answer(T, 0 * labels)):
        assert jnp.abs(other - given)[jnp.array([0, 2])].max() > 1e-3
    np.testing.assert_array_equal(answer(T, None), answer(T, 0 * labels))
    told = jnp.concatenate([labels, jnp.zeros((3, 2))], axis=1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), X, T, told)
    more = drawn(shapes)
    np.testing.assert_allclose(net.apply(more, X, T, told), given, rtol=1e-4, atol=1e-5)
    assert jnp.abs(net.apply(more, X, T, told.at[:, -1].set(1.0)) - given).max() > 1e-3


def test_bad_settings_are_one_line():
    for settings, message in [
        ({"patch_size": 3}, "images of 8x8 are not tiled by patch_size=3"),
        ({"num_heads": 3}, "channels=16 must be a multiple of num_heads=3"),
        ({"depth": 4}, "depth is 4; give a whole number that is odd"),
    ]:
        with pytest.raises(InputError, match=message):
            made("uvit", **settings)
    with pytest.raises(InputError, match="network dit is for images, not for points of 2 numbers; take mlp"):
        backbone({"name": "dit"}, (2,))
