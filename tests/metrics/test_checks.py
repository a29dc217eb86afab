"""What all metrics ask of their input."""

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics import checks

X = np.arange(20.0).reshape(10, 2)


def test_tables_of_finite_numbers_are_taken_as_they_are():
    for x in (X, X.astype(np.float32), X.astype(np.uint8), X[:0], X < 3):
        assert checks.table(x) is x
    np.testing.assert_array_equal(checks.table(X.tolist()), X)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39, -1e39])
def test_the_images_that_are_not_finite_are_counted(monkeypatch, bad):
    monkeypatch.setattr(checks, "ROWS", 4)
    x = X.copy()
    x[[0, 3, 8], [1, 0, 1]] = x[3, 1] = bad
    assert checks.count_not_finite(x) == 3
    with pytest.raises(InputError, match="3 of 10 images have logits that are not finite"):
        checks.table(x, "logits")


@pytest.mark.parametrize("x", [X[0], X[None], X * 1j, X.astype(object), X.astype(str)])
def test_other_forms_are_refused(x):
    with pytest.raises(InputError, match=r"features are real numbers \[n, dim\], not"):
        checks.table(x)


def test_counts_are_whole_numbers():
    checks.at_least(1, k=1, n=np.int64(3), flag=True)
    for value in (0, -1, 1.0, 2.5, "3", None):
        with pytest.raises(InputError, match="n is .*; give a whole number of at least 1"):
            checks.at_least(1, k=5, n=value)
