"""Flags: a strict parser, and the overrides `--config.FIELD=VALUE` apart from them."""

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

from gm_jax.cli.config import nearest
from gm_jax.errors import InputError


class Parser(argparse.ArgumentParser):
    """Raises InputError instead of exiting, and takes no abbreviations."""

    def __init__(self, prog: str, usage: str, epilog: str):
        style = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=prog, usage=usage, epilog=epilog, formatter_class=style, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; python {self.prog} --help lists the flags")


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The type of a flag: a whole number of `least` or more, and of `most` or less."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            words = f"of {least} or more" if most is None else f"from {least} to {most}"
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number {words}")
        return int(text)

    return parse


def parse(parser: Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The known flags, and those of the form `--config.a.b` as {"a.b": text}."""
    rest, overrides = _split_overrides(argv)
    flags, unknown = parser.parse_known_args(rest)
    if unknown:
        name = unknown[0].partition("=")[0]
        if not name.startswith("-"):
            raise InputError(f"unexpected argument {name!r}; python {parser.prog} --help lists the flags")
        known = nearest(name, [f"--{flag}" for flag in vars(flags)])
        raise InputError(f"unknown flag {name}; the nearest known one is {known}")
    return flags, overrides


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    rest, overrides, words = [], {}, iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        key, equals, value = word.removeprefix("--config.").partition("=")
        value = value if equals else next(words, "--")
        if not equals and value.startswith("--"):
            raise InputError(f"--config.{key} has no value; write --config.{key}=VALUE")
        overrides[key] = value
    return rest, overrides
