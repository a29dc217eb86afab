"""PixelCNN++ and gated PixelCNN of images: who sees whom; the sampler that remembers draws what the naive one draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.images import to_float
from gm_jax.nets import pixelcnn_pp
from gm_jax.nets.autoregressive import fill, fill_naive, pixel_network
from gm_jax.nets.gated_pixelcnn import GatedImagePixelCNN
from gm_jax.nets.pixelcnn_pp import PixelCNNPP, WeightNormConv, doubled
from gm_jax.nets.pixelcnn_pp_rows import active_levels
from tests.weights import drawn

PLUS_PLUS = {"name": "pixelcnn_pp", "channels": 6, "num_layers": 1, "halvings": 1, "components": 2}
GATED = {"name": "gated", "channels": 6, "num_layers": 2}
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def case(settings, shape, num_classes=None, n=5):
    """A network, weights with no zero left, images and labels."""
    net = pixel_network(settings, shape, num_classes)
    images = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)
    labels = None if num_classes is None else jnp.arange(n) % num_classes
    return net, drawn(jax.eval_shape(net.init, jax.random.key(0), images, labels)), images, labels


# --- who sees whom ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net",
    [PixelCNNPP(3, 4, num_layers=1, halvings=2, dropout=0.0), GatedImagePixelCNN(256, 6, num_layers=3, image_channels=1)],
    ids=["pixelcnn_pp", "gated"],
)
def test_a_pixel_sees_all_before_it_and_neither_itself_nor_a_later_one(net):
    height, width = 4, 4
    x = jnp.float32(np.random.default_rng(0).uniform(-1, 1, (1, height, width, 1)))
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x)["params"])
    weights = np.random.default_rng(2).normal(size=jax.eval_shape(net.apply, {"params": params}, x).shape[-1])
    jacobian = quick_jit(jax.jacrev(lambda x: net.apply({"params": params}, x)[0] @ weights))(x)
    order = np.arange(height * width)
    np.testing.assert_array_equal(np.abs(jacobian.reshape(16, 16)) > 0, order[None, :] < order[:, None])


def test_a_softmax_sees_the_sub_pixels_before_it_alone():
    (net, params, images, _), places = case(GATED, (1, 2, 3), n=1), np.arange(6)
    module = GatedImagePixelCNN(256, 6, 2)
    changed = images.repeat(7, 0)
    for i in places:  # image i differs in sub-pixel i, the last one in none
        changed.reshape(7, 6)[i, i] ^= 1
    features = net.answer(params, changed)
    logits = module.apply({"params": params}, features, changed, method="logits_of").reshape(7, 6, 256)
    sees = np.abs(logits[:6] - logits[6]).max(-1) > 0
    np.testing.assert_array_equal(sees, places[:, None] < places[None, :])


def test_a_label_is_told_to_every_pixel():
    for settings in (PLUS_PLUS, GATED):
        net, params, images, labels = case(settings, (4, 4, 1), num_classes=3)
        one, other = (quick_jit(net.answer)(params, images, (labels + shift) % 3) for shift in (0, 1))
        assert np.all(np.abs(one - other).max(-1) > 1e-4)


# --- drawing ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings, shape, num_classes, temperature",
    [
        ({**PLUS_PLUS, "halvings": 2}, (8, 4, 3), None, 1.0),
        ({**PLUS_PLUS, "num_layers": 2}, (4, 6, 1), 3, 0.7),
        ({**PLUS_PLUS, "halvings": 0}, (3, 5, 1), None, 1.0),
        (GATED, (4, 5, 3), 3, 0.7),
    ],
)
def test_the_cached_sampler_draws_the_images_of_the_naive_one(settings, shape, num_classes, temperature):
    net, params, images, labels = case(settings, shape, num_classes)
    keys, nothing = jax.random.split(jax.random.key(3), 5), jnp.zeros(shape[:2], bool)
    upper = nothing.at[: shape[0] // 2].set(True)
    cached, naive = (quick_jit(partial(f, net, temperature=temperature)) for f in (fill, fill_naive))
    for known in (nothing, upper):
        found = cached(params, keys, images, known, labels)
        np.testing.assert_array_equal(found, naive(params, keys, images, known, labels))
        assert found.shape == images.shape and len(np.unique(found.reshape(5, -1), axis=0)) == 5
    np.testing.assert_array_equal(found[:, : shape[0] // 2], images[:, : shape[0] // 2])


# --- parts --------------------------------------------------------------------------------------------------------------------


def test_the_first_outputs_of_every_layer_are_normal():
    x = np.random.default_rng(0).normal(3, 7, (4, 5, 6, 3)).astype(np.float32)
    y, variables = WeightNormConv(8, (2, 3), init_scale=0.5).init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 0.5, rtol=1e-4)
    net, images = PixelCNNPP(3, 4, 1, 0), np.random.default_rng(1).integers(0, 256, (4, 4, 4, 1), dtype=np.uint8)
    params = quick_jit(partial(pixelcnn_pp.init, net))(jax.random.key(0), to_float(images))
    answer = net.apply({"params": params}, to_float(images))
    np.testing.assert_allclose(answer.std((0, 1, 2)), 1, rtol=1e-3)


@pytest.mark.parametrize("columns", [2, 3])
def test_doubling_is_a_transposed_convolution(columns):
    x, kernel = (np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in ((2, 3, 4, 5), (2, columns, 5, 6)))
    full = np.zeros((2, 6, 8 + columns, 6))
    for row, column, i, j in np.ndindex(3, 4, 2, columns):
        full[:, 2 * row + i, 2 * column + j] += x[:, row, column] @ kernel[i, j]
    np.testing.assert_allclose(doubled(x, kernel), full[:, :, columns - 2 :][:, :, :8], atol=1e-5)


def test_resolutions_have_a_new_row_at_every_second_one_of_the_next_higher():
    assert [active_levels(2, phase) for phase in range(4)] == [3, 1, 2, 1]
    assert [active_levels(1, phase) for phase in range(2)] == [2, 1] and active_levels(0, 0) == 1


def test_dropout_is_of_training_alone():
    net, params, images, _ = case(PLUS_PLUS, (2, 2, 1))
    one, two, plain = (net.answer(params, images, train=train, key=jax.random.key(i)) for i, train in ((0, 1), (1, 1), (2, 0)))
    assert np.abs(one - two).max() > 1e-3 and np.abs(one - plain).max() > 1e-3
    np.testing.assert_array_equal(plain, net.answer(params, images))


def test_what_does_not_fit_is_one_clear_line():
    for settings, shape, message in [
        (PLUS_PLUS, (8, 5, 3), "images of 8x5 cannot be halved 1 times"),
        (GATED, (2,), "for grey or RGB images"),
        (GATED, (8, 8, 2), "for grey or RGB images"),
        ({**GATED, "halvings": 1}, (8, 8, 1), "network 'gated'"),
        ({"name": "gate"}, (8, 8, 1), "unknown network 'gate'"),
    ]:
        with pytest.raises(InputError, match=message):
            pixel_network(settings, shape)
