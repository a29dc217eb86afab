import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.data import binary, sources
from gm_jax.data.dataset import Dataset
from gm_jax.training.batches import make_batch, seed_keys


def test_test_images_are_drawn_once_with_their_levels_as_probabilities():
    grey = np.tile(np.array([0, 51, 204, 255], np.uint8)[:, None, None, None], (1, 200, 100, 1))
    data = binary.binarize(Dataset("grey", grey, None, grey, None, None))
    assert data.name == "binary_grey" and set(np.unique(data.x_test)) == {0, 255}
    np.testing.assert_array_equal(data.x_train, grey)  # the probabilities
    np.testing.assert_allclose(data.x_test.mean((1, 2, 3)) / 255, [0, 0.2, 0.8, 1], atol=0.015)
    np.testing.assert_array_equal(data.x_test, binary.binarize(Dataset("grey", grey, None, grey, None, None)).x_test)
    assert not np.array_equal(binary.drawn(grey, 0), binary.drawn(grey, 1))


def test_training_images_are_drawn_anew_at_every_step_whatever_the_share_of_a_device():
    data = sources.load("binary_digits")
    assert data.binarize and data.num_classes == 10
    x, keys = jnp.asarray(data.x_train[:64]), seed_keys(0)
    draw = jax.jit(lambda step, index, x: make_batch(keys, step, index, x, None, False, 64, binarize=True).x)
    batches = np.stack([draw(step, jnp.arange(64), x) for step in range(400)])
    assert set(np.unique(batches)) == {-1, 1}
    np.testing.assert_allclose((batches.mean(0) + 1) / 2, x / 255, atol=0.14)
    np.testing.assert_array_equal(draw(3, jnp.arange(32, 64), x[32:]), batches[3, 32:])
