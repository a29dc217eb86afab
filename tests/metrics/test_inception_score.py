"""The inception score against closed forms."""

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics.inception_score import inception_score

CERTAIN = 1000 * np.eye(5, dtype=np.float32)  # logits of five classes, each known for sure


def test_sure_and_balanced_is_the_number_of_classes():
    assert inception_score(np.tile(CERTAIN, (20, 1)), splits=1) == pytest.approx((5, 0), abs=1e-12)


@pytest.mark.parametrize("logits", [np.zeros((40, 5)), np.tile(CERTAIN[:1], (40, 1)), np.tile([[0.0, 1, 5]], (40, 1))])
def test_undecided_images_and_images_of_one_kind_score_one(logits):
    assert inception_score(logits) == pytest.approx((1, 0), abs=1e-12)


def test_two_classes_in_closed_form():
    """p(y|x) is (p, 1-p) or the reverse, equally often: log score = log 2 - H(p)."""
    p = 0.8
    logits = np.log([[p, 1 - p], [1 - p, p]] * 50)
    entropy = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert inception_score(logits, splits=1)[0] == pytest.approx(2 * np.exp(-entropy), rel=1e-12)


def test_mean_and_deviation_are_over_parts_at_random_that_cover_all_images():
    logits = np.random.default_rng(0).normal(size=(23, 4))
    bounds, shuffled = [0, 7, 15, 23], logits[np.random.default_rng(0).permutation(23)]
    parts = [inception_score(shuffled[start:stop], 1)[0] for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]
    assert inception_score(logits, 3) == pytest.approx((np.mean(parts), np.std(parts)), rel=1e-12)
    assert inception_score(logits, 3) == inception_score(logits, 3) != inception_score(logits, 3, seed=1)


def test_images_sorted_by_class_score_as_others():
    """Of 2000 images the classes of a split are nearly balanced: (K - 1) / 2n = 0.01 is what exp of the entropy lacks of 1."""
    assert inception_score(np.repeat(CERTAIN, 400, axis=0))[0] == pytest.approx(5 * (1 - 0.01), abs=0.02)
    logits = np.repeat(CERTAIN, 400, axis=0) / 400 + np.random.default_rng(3).normal(size=(2000, 5))
    found, shuffled = inception_score(logits)[0], inception_score(logits[np.random.default_rng(4).permutation(2000)])[0]
    assert found == pytest.approx(shuffled, rel=0.01)


def test_a_constant_added_to_the_logits_changes_nothing():
    logits = np.random.default_rng(1).normal(size=(50, 10))
    assert inception_score(logits + 300) == pytest.approx(inception_score(logits), rel=1e-9)


def test_mode_collapse_lowers_it():
    rng = np.random.default_rng(2)
    everything = np.tile(CERTAIN, (20, 1)) / 200 + rng.normal(size=(100, 5))
    assert inception_score(everything[np.arange(100) // 5 * 5])[0] < 0.5 * inception_score(everything)[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(bad):
    logits = np.random.default_rng(0).standard_normal((40, 10))
    logits[[3, 7], 2] = bad
    with pytest.raises(InputError, match="2 of 40 images have logits that are not finite"):
        inception_score(logits, 1)


@pytest.mark.parametrize("splits", [0, -1, 2.5, "no"])
def test_a_number_of_splits_that_makes_no_sense_is_refused(splits):
    with pytest.raises(InputError, match=f"splits is {splits!r}; give a whole number of at least 1"):
        inception_score(np.zeros((40, 3)), splits)


def test_fewer_images_than_splits_are_refused():
    with pytest.raises(InputError, match="at least 10 images, not 9"):
        inception_score(np.zeros((9, 3)))
