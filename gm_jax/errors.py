"""The one exception for bad input. The command line prints its message as one line and exits with code 2."""

from collections.abc import Mapping
from typing import Any


class InputError(ValueError):
    """What is wrong and what to do about it, in one line."""


def choose(table: Mapping[str, Any], name: str, what: str) -> Any:
    """The entry of that name. Raises InputError, which lists the known names, where there is none."""
    if name not in table:
        raise InputError(f"unknown {what} {name!r}; choose {', '.join(table)}")
    return table[name]
