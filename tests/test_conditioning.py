import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gm_jax.conditioning import NO_LABEL, check_labels, classes_of, draw_labels, drop_labels, one_hot
from gm_jax.errors import InputError

KEYS = jax.random.split(jax.random.key(0), 10_000)


def test_a_model_tells_apart_the_classes_of_its_data_or_none():
    assert classes_of(10, True) == 10
    assert classes_of(10, False) is None and classes_of(None, False) is None
    with pytest.raises(InputError, match="class_conditional=True needs labels, which this data set has not"):
        classes_of(None, True)


@pytest.mark.parametrize(
    ("labels", "num_classes", "reason"),
    [
        (jnp.zeros(3, int), None, "unconditional: leave labels at None"),
        (jnp.array([0.0, 1.0]), 3, r"whole numbers \[n\], one a sample, not float32 \[2\]"),
        (jnp.array([True, False]), 3, r"not bool \[2\]"),
        (jnp.eye(3, dtype=int), 3, r"not int32 \[3, 3\]"),
        (np.int32(1), 3, r"not int32 \[\]"),
        (jnp.array([0, 3]), 3, "labels reach from 0 to 3; this model knows 0 to 2"),
        (np.array([-1, 2]), 3, "labels reach from -1 to 2; this model knows 0 to 2"),
    ],
)
def test_labels_that_mean_nothing_are_refused(labels, num_classes, reason):
    with pytest.raises(InputError, match=reason):
        check_labels(labels, num_classes)


@pytest.mark.parametrize("labels", [None, jnp.array([0, 2, 1]), np.array([2], np.uint8), np.zeros(0, int)])
def test_labels_that_mean_something_pass(labels):
    check_labels(labels, 3)
    if labels is None:
        check_labels(None, None)


def test_values_of_traced_labels_are_not_looked_at_but_their_kind_is():
    jax.jit(lambda labels: check_labels(labels, 3))(jnp.array([7]))
    with pytest.raises(InputError, match="whole numbers"):
        jax.jit(lambda labels: check_labels(labels, 3))(jnp.array([1.0]))
    with pytest.raises(InputError, match="unconditional"):
        jax.jit(lambda labels: check_labels(labels, None))(jnp.array([1]))


def test_drawn_labels_are_uniform_and_each_keys_own():
    labels = draw_labels(KEYS, 7)
    assert labels.dtype == jnp.int32
    assert stats.chisquare(np.bincount(labels, minlength=7)).pvalue > 1e-3
    np.testing.assert_array_equal(draw_labels(KEYS[5:9], 7), labels[5:9])


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_of_labels_asked_for_is_dropped_and_the_others_stay(share):
    labels = jnp.arange(len(KEYS)) % 7
    dropped = drop_labels(KEYS, labels, share)
    gone = np.asarray(dropped == NO_LABEL)
    np.testing.assert_array_equal(dropped[~gone], labels[~gone])
    assert abs(gone.mean() - share) < 4 * (share * (1 - share) / len(KEYS)) ** 0.5
    by_label = np.array([gone[np.asarray(labels) == label].mean() for label in range(7)])
    assert np.all(np.abs(by_label - share) < 5 * (share * (1 - share) * 7 / len(KEYS)) ** 0.5)
    np.testing.assert_array_equal(drop_labels(KEYS[5:9], labels[5:9], share), dropped[5:9])


def test_without_a_share_nothing_is_dropped():
    np.testing.assert_array_equal(drop_labels(KEYS[:50], jnp.arange(50), 0.0), jnp.arange(50))


def test_one_hot_rows_are_zero_where_there_is_no_label():
    np.testing.assert_array_equal(one_hot(jnp.array([2, NO_LABEL, 0]), 3, 3), [[0, 0, 1], [0, 0, 0], [1, 0, 0]])
    np.testing.assert_array_equal(one_hot(None, 2, 3), np.zeros((2, 3)))
