"""Types and ranges read off annotations: what fits, what it becomes, and what is said of what does not."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pytest

from gm_jax.errors import InputError
from gm_jax.settings import (
    REQUIRED,
    Count,
    Decay,
    NonNegative,
    Positive,
    Section,
    Seed,
    Share,
    Whole,
    above,
    checked,
    convert,
    describe,
    fields_of,
    parse,
    section_of,
    unknown,
)

NAN, INF = math.nan, math.inf

FITTING = [
    (int, 3, 3),
    (float, 0.5, 0.5),
    (float, 2, 2.0),
    (float, INF, INF),
    (bool, True, True),
    (str, "1e3", "1e3"),
    (Any, {"a": 1}, {"a": 1}),
    (Mapping, {"a": 1}, {"a": 1}),
    (Count, 1, 1),
    (Whole, 0, 0),
    (NonNegative, 0, 0.0),
    (Positive, 1e-9, 1e-9),
    (Share, 1, 1.0),
    (Decay, 0.0, 0.0),
    (Seed, 2**32 - 1, 2**32 - 1),
    (Literal["a", "b"], "b", "b"),
    (Positive | Literal["optimal"], "optimal", "optimal"),
    (Positive | Literal["optimal"], 2, 2.0),
    (int | None, None, None),
    (int | float, 3, 3),
    (tuple[Count, ...], (1, 2), (1, 2)),
    (tuple[Count, ...], [1, 2], (1, 2)),
    (tuple[Count, ...], 4, (4,)),
    (tuple[float, ...], [1, 2.5], (1.0, 2.5)),
    (tuple[int, ...], (), ()),
    (Sequence[float], 3, (3.0,)),
]
REFUSED = [
    (int, 3.0),
    (int, True),
    (int, "3"),
    (float, True),
    (float, NAN),
    (float, "0.5"),
    (bool, 1),
    (str, 1),
    (Count, 0),
    (Whole, -1),
    (NonNegative, -1e-9),
    (NonNegative, NAN),
    (Positive, 0),
    (Share, 1.1),
    (Decay, 1.0),
    (Seed, 2**32),
    (Literal["a", "b"], "c"),
    (Literal[1, 2], True),
    (Literal[1, 2], 1.0),
    (Positive | Literal["optimal"], "best"),
    (Positive | Literal["optimal"], 0.0),
    (int, None),
    (int | None, 0.5),
    (tuple[Count, ...], (1, 0)),
    (tuple[Count, ...], "12"),
    (tuple[int, ...], (1, 2.5)),
    (Mapping, (1,)),
]


@pytest.mark.parametrize(("hint", "value", "expected"), FITTING)
def test_what_fits_is_taken_in_its_proper_type(hint, value, expected):
    found = convert(value, hint, "model.x")
    assert found == expected and type(found) is type(expected)
    if isinstance(found, tuple):
        assert [type(item) for item in found] == [type(item) for item in expected]


@pytest.mark.parametrize(("hint", "value"), REFUSED)
def test_what_does_not_fit_is_refused_by_the_name_of_the_field(hint, value):
    with pytest.raises(InputError) as error:
        convert(value, hint, "model.x")
    assert str(error.value) == f"model.x is {value!r}; give {describe(hint)}"


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Count, "a whole number of at least 1"),
        (Positive, "a number above 0"),
        (Share, "a number from 0 to 1"),
        (Decay, "a number in [0, 1)"),
        (Seed, "a whole number from 0 to 4294967295"),
        (bool, "true or false"),
        (str, "a word"),
        (Literal["eps", "v"], "'eps' or 'v'"),
        (Positive | Literal["optimal"], "a number above 0 or 'optimal'"),
        (int | None, "a whole number or none"),
        (tuple[Count, ...], "a list of which each is a whole number of at least 1"),
        (Section("network"), "a section"),
        (Annotated[float, above(0), above(1)], "a number above 0 above 1"),
        (Any, "a value"),
    ],
)
def test_what_to_give_is_said_in_words(hint, words):
    assert describe(hint) == words


@pytest.mark.parametrize(
    ("hint", "text", "expected"),
    [
        (int, "3", 3),
        (float, "3", 3.0),
        (float, "1e-4", 1e-4),
        (float, "inf", INF),
        (bool, "true", True),
        (bool, "False", False),
        (str, "1e3", "1e3"),
        (str, "none", "none"),
        (int | None, "none", None),
        (Literal["eps", "v"], "v", "v"),
        (Positive | Literal["optimal"], "optimal", "optimal"),
        (Positive | Literal["optimal"], "0.5", 0.5),
        (tuple[Count, ...], "1,2,4", (1, 2, 4)),
        (tuple[Count, ...], "(1, 2)", (1, 2)),
        (tuple[Count, ...], "8", (8,)),
        (tuple[Count, ...], "()", ()),
        (tuple[str, ...], "abc", ("abc",)),
    ],
)
def test_text_of_a_command_line_becomes_a_value(hint, text, expected):
    found = parse(text, hint, "model.x")
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("hint", "text"), [(int, "3.0"), (int, "three"), (bool, "1"), (float, "nan"), (float, "1,2"), (Count, "0"), (int, "f(x)")]
)
def test_text_that_is_no_such_value_is_refused(hint, text):
    with pytest.raises(InputError) as error:
        parse(text, hint, "model.x")
    assert str(error.value) == f"model.x={text} cannot be used; give {describe(hint)}"


# --- functions ----------------------------------------------------------------------------------------------------------------


@checked
def make(shape, dtype="f", *, size: Count, beta: NonNegative = 1.0, sizes: tuple[Count, ...] = (), net: Section("network") = 0):
    """What it is."""
    return shape, dtype, size, beta, sizes, net


def test_the_keyword_only_arguments_are_the_fields():
    fields = fields_of(make)
    assert list(fields) == ["size", "beta", "sizes", "net"]
    assert fields["size"].default is REQUIRED and fields["beta"].default == 1.0
    assert [section_of(field.hint) for field in fields.values()] == [None, None, None, "network"]
    assert make.__name__ == "make" and make.__doc__ == "What it is."


def test_a_checked_function_gets_its_settings_converted_and_the_rest_as_it_is():
    assert make((2,), size=3, beta=2, sizes=[1, 2]) == ((2,), "f", 3, 2.0, (1, 2), 0)
    assert type(make((2,), size=3, beta=2)[3]) is float
    section = {"name": "unet", "channels": 0.5}  # checked by whoever reads it
    assert make((2,), dtype="g", size=1, net=section)[5] == section


def test_a_checked_function_refuses_what_does_not_fit_before_its_own_work():
    with pytest.raises(InputError, match="size is 0; give a whole number of at least 1"):
        make((2,), size=0)
    with pytest.raises(InputError, match="beta is nan; give a number of at least 0"):
        make((2,), size=1, beta=NAN)
    with pytest.raises(TypeError, match="'sise'"):
        make((2,), sise=1)


def test_an_unknown_field_is_told_the_nearest_known_one():
    assert (
        str(unknown("model.chanels", ["size", "channels"]))
        == "unknown field model.chanels; the nearest known one is 'channels'"
    )
    assert str(unknown("model.x", [])) == "unknown field model.x; there are none"
