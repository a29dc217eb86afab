"""What an extractor may answer, and what is made of it."""

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics.extractor import Extractor, Features, extract, from_callable

X = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 1), np.uint8)


def extracted(fn, jit=False, batch_size=3):
    return extract(from_callable(fn, "mine", "1", jit=jit, batch_size=batch_size), X)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("axes", [(), (1, 1), (1,)])
def test_axes_of_length_one_are_dropped(jit, axes):
    expected = X.reshape(7, 16).astype(np.float32)
    found = extracted(lambda x: Features(x.reshape(len(x), 16, *axes), x.reshape(len(x), *axes, 16)), jit)
    for part in found:
        np.testing.assert_array_equal(part, expected)
        assert part.dtype == np.float32
    np.testing.assert_array_equal(extracted(lambda x: x[:, :1, 0, 0], jit).features, expected[:, :1])


def test_other_floats_and_lists_become_float32():
    bfloat16 = extracted(lambda x: x.reshape(len(x), 16).astype(jnp.bfloat16), jit=True).features
    lists = extracted(lambda x: x.reshape(len(x), 16).tolist()).features
    assert bfloat16.dtype == lists.dtype == np.float32
    np.testing.assert_array_equal(lists, X.reshape(7, 16))
    np.testing.assert_allclose(bfloat16, lists, rtol=2**-8)


def test_an_extractor_may_answer_with_features_alone():
    found = extract(Extractor("mine", "1", lambda variables, x: x.reshape(len(x), 16) * variables, np.float32(2)), X)
    np.testing.assert_array_equal(found.features, 2.0 * X.reshape(7, 16))
    assert found.logits is None


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: x.reshape(len(x), 4, 4), r"features of mine are uint8 \[3, 4, 4\] for 3 images"),
        (lambda x: x.reshape(len(x), 4, 2, 2), r"\[3, 4, 2, 2\] for 3 images; give real numbers \[3, d\]"),
        (lambda x: x[:, 0, 0, 0], r"\[3\] for 3 images"),
        (lambda x: x.reshape(len(x), 16).mean(0), r"\[16\] for 3 images"),
        (lambda x: x.mean() * 1.0, r"\[\] for 3 images"),
        (lambda x: x.reshape(2 * len(x), 8), r"\[6, 8\] for 3 images"),
        (lambda x: x.reshape(len(x), 16)[:, :0], r"\[3, 0\] for 3 images"),
        (lambda x: x.reshape(len(x), 16) * 1j, r"complex.* \[3, 16\]"),
        (lambda x: Features(x.reshape(len(x), 16), x[0]), r"logits of mine are uint8 \[4, 4, 1\]"),
        (lambda x: (x.reshape(len(x), 16), x.reshape(len(x), 16)), r"a tuple of 2; let it give features, or metrics.Features"),
    ],
)
def test_other_forms_are_refused_by_their_shape(fn, message, jit):
    with pytest.raises(InputError, match=message) as error:
        extracted(fn, jit)
    assert "\n" not in str(error.value)


def test_what_is_no_array_and_what_changes_its_form_is_refused():
    for value in (None, {"a": 1}, object()):
        with pytest.raises(InputError, match="object"):
            extracted(lambda x, value=value: value)
    with pytest.raises(InputError, match="cannot be read as an array"):
        extracted(lambda x: [[1, 2], [3], [4]])
    with pytest.raises(InputError, match="16 features and 0 logits, then 1 features and 0 logits"):
        extracted(lambda x: x.reshape(len(x), -1)[:, : 16 if len(x) == 3 else 1])
    with pytest.raises(InputError, match="then 16 features and 16 logits"):
        extracted(lambda x: Features(x.reshape(-1, 16), None if len(x) == 3 else x.reshape(-1, 16)))


def test_numbers_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="batch_size is 0"):
        extracted(lambda x: x.reshape(len(x), 16), batch_size=0)
    with pytest.raises(InputError, match="there are no images"):
        extract(from_callable(lambda x: x, "mine", "1"), X[:0])


def test_a_digest_lasts_if_it_was_given():
    assert from_callable(len, "mine", "abc").lasting and from_callable(len, "mine", "abc").digest == "abc"
    one, other = from_callable(len, "mine"), from_callable(len, "mine")
    assert one.digest != other.digest and not one.lasting and not one._replace(digest="").lasting
