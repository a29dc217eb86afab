"""Settings: what type and range a field has, read off annotations, and one check for all of them.

The fields of a model are the keyword-only arguments of its `make`, those of a network the ones of its function, the common ones
stand in `gm_jax.defaults`. A field's annotation says all that may be given:

    beta: NonNegative = 1.0                                   a number of at least 0
    prediction: Literal["eps", "x0", "v"] = "eps"             one of three words
    likelihood_variance: Positive | Literal["optimal"] = 1.0  a number above 0 or "optimal"
    channel_multipliers: tuple[Count, ...] = ()               whole numbers; a single one will do
    network: Section("network") = ...                         a section with a name, and that network's own fields

`checked` puts the check before a function's own work, so that it holds for whoever calls it.
"""

import ast
import difflib
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from gm_jax.errors import InputError

REQUIRED = inspect.Parameter.empty  # the default of a field that has none
# what functions are given, and nobody sets
CONTEXT = ("image_shape", "num_classes", "dtype", "axis_name", "build", "data_variance")


class Constraint(NamedTuple):
    """A condition on a value, and the words for it."""

    words: str
    holds: Callable[[Any], bool]


class SectionOf(NamedTuple):
    """Marks a nested section: its "name" chooses a function of this kind ("network", "model"), whose fields it holds."""

    kind: str


class Field(NamedTuple):
    """A field that is no keyword argument: its default, its type and range, and what it means."""

    default: Any
    hint: Any
    help: str = ""


def at_least(least: float) -> Constraint:
    return Constraint(f"of at least {least:g}", lambda value: value >= least)


def above(bound: float) -> Constraint:
    return Constraint(f"above {bound:g}", lambda value: value > bound)


def within(low: float, high: float) -> Constraint:
    """Both ends included."""
    return Constraint(f"from {low:.10g} to {high:.10g}", lambda value: low <= value <= high)


def even(least: int) -> Constraint:
    return Constraint(f"that is even and at least {least}", lambda value: value >= least and value % 2 == 0)


def odd(least: int) -> Constraint:
    return Constraint(f"that is odd and at least {least}", lambda value: value >= least and value % 2 == 1)


def up_to(low: float, high: float) -> Constraint:
    """The lower end included, the upper one not."""
    return Constraint(f"in [{low:g}, {high:g})", lambda value: low <= value < high)


Count = Annotated[int, at_least(1)]
Whole = Annotated[int, at_least(0)]
Positive = Annotated[float, above(0)]
NonNegative = Annotated[float, at_least(0)]
Share = Annotated[float, within(0, 1)]
Decay = Annotated[float, up_to(0, 1)]  # of running means, and dropout
Seed = Annotated[int, within(0, 2**32 - 1)]  # JAX would silently use the last 32 bits of more


def Section(kind: str) -> Any:
    """The type of a nested section, see `SectionOf`."""
    return Annotated[Mapping, SectionOf(kind)]


# --- fields -------------------------------------------------------------------------------------------------------------------


def fields_of(function: Callable) -> dict[str, Field]:
    """The settings of a `make` or of a network's function: its keyword-only arguments."""
    bound = function.keywords if isinstance(function, functools.partial) else {}
    hints = typing.get_type_hints(getattr(function, "func", function), include_extras=True)
    parameters = inspect.signature(function).parameters
    settable = {name: p for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY and name not in bound}
    return {name: Field(p.default, hints.get(name, Any)) for name, p in settable.items()}


def section_of(hint: Any) -> str | None:
    """The kind of section that a field is; None if it is none."""
    marks = [mark.kind for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, SectionOf)]
    return marks[0] if marks else None


def unknown(key: str, known: Iterable[str]) -> InputError:
    """The error for a field `key` whose last part is not among `known`."""
    nearest = difflib.get_close_matches(key.rpartition(".")[2], list(known), n=1, cutoff=0.0)
    hint = f"the nearest known one is {nearest[0]!r}" if nearest else "there are none"
    return InputError(f"unknown field {key}; {hint}")


def checked(function: Callable) -> Callable:
    """`function`, with its annotated settings checked, and converted (lists to tuples, whole numbers to floats), first.

    Raises InputError that names the setting. A section is left to whoever reads it.
    """
    fields = fields_of(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        known = {name: convert(value, fields[name].hint, name) for name, value in kwargs.items() if name in fields}
        return function(*args, **{**kwargs, **known})

    return call


# --- values -------------------------------------------------------------------------------------------------------------------


def convert(value: Any, hint: Any, name: str) -> Any:
    """`value` in the type that `hint` asks for. Raises InputError, which names the field, for one that does not fit."""
    found = _fit(value, hint)
    if found is _MISFIT:
        raise InputError(f"{name} is {value!r}; give {describe(hint)}")
    return found


def parse(text: str, hint: Any, name: str) -> Any:
    """The value that `text` of a command line stands for. Raises InputError as `convert`."""
    literal = _literal(text)
    for value in (text, literal) if _takes_text(hint) else (literal, text):
        if (found := _fit(value, hint)) is not _MISFIT:
            return found
    raise InputError(f"{name}={text} cannot be used; give {describe(hint)}")


def describe(hint: Any) -> str:
    """What a field takes, in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        words = [mark.words for mark in hint.__metadata__ if isinstance(mark, Constraint)]
        return " ".join([describe(args[0]), *words])
    if origin is Literal:
        return " or ".join(map(repr, args))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, args))
    if origin in (tuple, list, Sequence):
        return f"a list of which each is {describe(args[0])}"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", Mapping: "a section"}
    return plain.get(hint) or plain.get(origin) or {None: "none", type(None): "none"}.get(hint, "a value")


_MISFIT = object()


def _fit(value: Any, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, str):
        return value
    if origin is Annotated:
        found = _fit(value, args[0])
        fits = found is not _MISFIT and all(m.holds(found) for m in hint.__metadata__ if isinstance(m, Constraint))
        return found if fits else _MISFIT
    if origin is Literal:
        return value if any(value == arg and type(value) is type(arg) for arg in args) else _MISFIT
    if origin in (typing.Union, types.UnionType):
        return next((found for arg in args if (found := _fit(value, arg)) is not _MISFIT), _MISFIT)
    if origin in (tuple, list, Sequence):
        items = [_fit(item, args[0]) for item in (value if isinstance(value, list | tuple) else [value])]
        return _MISFIT if _MISFIT in items else tuple(items)
    return _fit_plain(value, origin or hint)


def _fit_plain(value: Any, kind: Any) -> Any:
    if kind is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        return float(value) if fits else _MISFIT
    if kind is int:
        return value if type(value) is int else _MISFIT
    if kind is None or kind is type(None):
        return value if value is None else _MISFIT
    if isinstance(kind, type):
        return value if isinstance(value, kind) else _MISFIT
    return value


def _takes_text(hint: Any) -> bool:
    """Is the text itself the first candidate? (For a path such as "1e3", say.)"""
    return hint is str or (typing.get_origin(hint) is Annotated and typing.get_args(hint)[0] is str)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return {"true": True, "false": False, "none": None, "inf": math.inf}.get(text.lower(), text)
