"""Parts of a data set are taken at random: data are often sorted by class."""

import jax
import numpy as np
import pytest

from gm_jax.data.dataset import data_variance, subset
from gm_jax.training.batches import seed_keys
from gm_jax.training.start import first_batch


def test_a_subset_is_random_always_the_same_and_the_beginning_of_larger_ones():
    rows = subset(1000, 300)
    assert len(set(rows.tolist())) == 300 and rows.min() >= 0 and rows.max() < 1000
    np.testing.assert_array_equal(subset(1000, 100), rows[:100])
    of_classes = np.bincount(rows // 100, minlength=10)  # of data sorted by ten classes
    assert of_classes.min() > 15 and of_classes.max() < 45
    assert rows[:5].tolist() == [560, 816, 308, 226, 623]  # also in later versions of NumPy
    np.testing.assert_array_equal(subset(7, 7), np.arange(7))
    np.testing.assert_array_equal(subset(7, 9), np.arange(7))


def test_initialisation_sees_all_classes_of_sorted_data():
    data, labels = np.zeros((1000, 2, 2, 1), np.uint8), np.repeat(np.arange(10), 100).astype(np.int32)
    batch = first_batch(seed_keys(0), data, labels, flip=False)
    assert len(batch.x) == 128 and set(np.asarray(batch.labels).tolist()) == set(range(10))
    assert len(jax.random.key_data(batch.keys)) == 128


@pytest.mark.parametrize("n", [3, 9000])
def test_the_variance_of_the_data_is_that_of_all_of_it(n):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, 2, 3, 1), dtype=np.uint8)
    assert data_variance(images) == pytest.approx(np.var(images / 127.5 - 1), rel=1e-12)
    points = rng.normal(3.0, 2.0, (n, 2)).astype(np.float32)
    assert data_variance(points) == pytest.approx(np.var(points.astype(np.float64)), rel=1e-6)
