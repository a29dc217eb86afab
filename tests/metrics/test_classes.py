"""Counts of classes against their closed forms."""

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics.classes import class_kl, classes_covered

UNIFORM = np.ones(8)


def test_one_class_of_many_costs_their_logarithm():
    counts = np.eye(8, dtype=int)[3] * 50
    assert classes_covered(counts) == 1
    assert class_kl(counts, UNIFORM) == pytest.approx(np.log(8))
    assert class_kl(50 * UNIFORM, UNIFORM) == pytest.approx(0)


def test_half_of_the_classes_cost_the_logarithm_of_two():
    counts = np.array([5, 5, 5, 5, 0, 0, 0, 0])
    assert class_kl(counts, UNIFORM) == pytest.approx(np.log(2)) and classes_covered(counts) == 4


def test_it_compares_with_what_is_expected():
    assert class_kl(np.array([1, 3]), np.array([1, 3])) == pytest.approx(0)
    assert class_kl(np.array([1, 1]), np.array([1, 3])) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))


def test_fair_draws_have_the_expected_excess():
    rng = np.random.default_rng(0)
    found = [class_kl(rng.multinomial(2000, np.full(100, 0.01)), np.ones(100)) for _ in range(50)]
    assert np.mean(found) == pytest.approx(99 / 4000, rel=0.1)


def test_nothing_and_the_impossible_are_refused():
    for counts, expected in ((np.zeros(8), UNIFORM), (UNIFORM, np.eye(8)[0])):
        with pytest.raises(InputError):
            class_kl(counts, expected)
