"""Config files: loaded, read back from a run, and overridden field by field, each to its own type."""

import ast
import difflib
import functools
import importlib.util
import json
import pathlib
import textwrap
import traceback
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from gm_jax.errors import InputError

DEFAULT_PRESET = "cifar10"
OPEN_SECTIONS = {"eval.sample": "steps", "eval.likelihood": "full"}  # with a key of each; whoever uses them checks them


def load_config(path: pathlib.Path, preset: str = "") -> ConfigDict:
    """Calls `get_config(preset)` of a config file. Raises InputError, with the line, on whatever is wrong with the file."""
    if not path.is_file():
        known = [str(file) for file in path.parent.glob("*.py") if file.stem not in ("__init__", "common")]
        hint = f"the nearest one is {nearest(str(path), sorted(known))}" if known else "check the path"
        raise InputError(f"config file {path} does not exist; {hint}")
    if path.suffix != ".py":
        raise InputError(f"config file {path} is not a .py file; give one that defines get_config(preset)")
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*[preset] if preset else [])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{_where(error, path)}: {describe(error)}; correct the config file") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config returns a {type(config).__name__}; it must return a ConfigDict")
    return config


def _where(error: Exception, path: pathlib.Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename} line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.resolve())]
    return f"{path} line {lines[-1]}" if lines else str(path)


def describe(error: Exception) -> str:
    """The error's type and the beginning of its message, for one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {textwrap.shorten(text, 200)}"


def defaults() -> ConfigDict:
    """The fields that every experiment has."""
    from configs.common import base

    return base()


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The config that a run was trained with. Raises InputError where there is none.

    Fields of `eval` that have come up since the run was trained have their defaults.
    """
    path = workdir / "config.json"
    try:
        config = json.loads(path.read_text())["config"]
        return ConfigDict({**config, "eval": {**defaults().eval.to_dict(), **config["eval"]}})
    except FileNotFoundError:
        raise InputError(f"{workdir} holds no run (no config.json); correct --workdir, or train one first") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({describe(error)}); restore it, or train into another directory") from error


def override(
    config: ConfigDict, overrides: dict[str, str], allowed: tuple[str, ...] = ("",), otherwise: str = "cannot be set"
) -> None:
    """Sets dotted keys from text, in place, each to its field's own type.

    `allowed`: prefixes of the keys that may be set; `otherwise`: what to say of another. Raises InputError for an unknown key
    (naming the nearest), for a whole section, for text that is not of the field's type, and for a key that may not be set.
    """
    for key, text in overrides.items():
        section, _, name = key.rpartition(".")
        known = _flatten(config)
        if key not in known and not (section in OPEN_SECTIONS and name.isidentifier()):
            raise InputError(_unknown_key(key, known))
        if not key.startswith(allowed):
            raise InputError(f"config.{key} {otherwise}")
        target = functools.reduce(ConfigDict.__getitem__, section.split(".") if section else [], config)
        target[name] = _convert(key, text, known.get(key))


def _flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return flat


def _unknown_key(key: str, known: Iterable[str]) -> str:
    fields = [name for name in known if name.startswith(f"{key}.")]
    if fields or key in OPEN_SECTIONS:
        field = fields[0] if fields else f"{key}.{OPEN_SECTIONS[key]}"
        return f"config.{key} is a section; set one of its fields, such as --config.{field}=VALUE"
    return f"unknown config key {key!r}; the nearest known one is {nearest(key, known)!r}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The most similar name. A right last component in the wrong section counts as nearer than all else."""
    same_field = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
    return difflib.get_close_matches(name, same_field or list(known), n=1, cutoff=0.0)[0]


def _convert(key: str, text: str, old: Any) -> Any:
    """`text` as a value of the type of `old`. A field that is None takes anything."""
    if isinstance(old, str):
        return text
    try:
        return _fit(_literal(text), old)
    except TypeError:
        kinds = {bool: "true or false", int: "a whole number", float: "a number"}
        kind = kinds.get(type(old), f"a {type(old).__name__} of the same kind of items")
        raise InputError(f"config.{key}={text} is not {kind}; the present value is {old!r}") from None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _fit(value: Any, old: Any) -> Any:
    if isinstance(old, tuple | list) and isinstance(value, tuple | list):
        return type(old)(_fit(item, old[0] if old else None) for item in value)
    if isinstance(old, float) and type(value) is int:
        return float(value)
    if old is not None and type(value) is not type(old):
        raise TypeError
    return value
