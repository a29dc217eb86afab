"""Config files: loaded, read back from a run, and overridden field by field, each in its own type."""

import copy
import difflib
import importlib.util
import pathlib
import textwrap
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

import gm_jax
from gm_jax.defaults import FIELDS, OPEN, plain
from gm_jax.errors import InputError
from gm_jax.settings import parse

DEFAULT_PRESET = "cifar10"


def load_config(path: pathlib.Path, preset: str = "") -> dict[str, Any]:
    """What `get_config(preset)` of a config file gives. Raises InputError, with the line, for what is wrong with the file."""
    if not path.is_file():
        known = [str(file) for file in path.parent.glob("*.py") if file.stem != "__init__"]
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
    return config.to_dict()


def find_config(name: str) -> pathlib.Path:
    """The config file that `name` is the path of, or the shipped one that it names: "ddpm" for configs/ddpm.py.

    Raises InputError where no shipped config has that name.
    """
    path = pathlib.Path(name).expanduser()
    if path.suffix or len(path.parts) > 1 or path.exists():
        return path
    known = {file.stem: file for file in shipped_configs().glob("*.py") if file.stem != "__init__"}
    if name not in known:
        raise InputError(f"no config {name!r} is shipped; the nearest one is {nearest(name, sorted(known))!r}; or give a file")
    return known[name]


def shipped_configs() -> pathlib.Path:
    """The folder of the configs: that of the installed package `gm_jax.configs`, or of the checkout."""
    beside = pathlib.Path(gm_jax.__file__).parent
    return next(folder for folder in (beside / "configs", beside.parent / "configs") if folder.is_dir())


def _where(error: Exception, path: pathlib.Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename} line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.resolve())]
    return f"{path} line {lines[-1]}" if lines else str(path)


def describe(error: Exception) -> str:
    """The error's type and the beginning of its message, for one line."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {textwrap.shorten(text, 200)}"


def read_config(workdir: pathlib.Path) -> dict[str, Any]:
    """The config that a run was trained with. Raises InputError where there is none, and for one of another format.

    Fields of `eval` that have come up since have their defaults.
    """
    from gm_jax.training import workdirs

    config = workdirs.read(workdir).config
    return {**config, "eval": {**plain()["eval"], **config["eval"]}}


def override(
    config: Mapping[str, Any],
    overrides: dict[str, str],
    allowed: tuple[str, ...] = ("",),
    otherwise: str = "cannot be set",
) -> dict[str, Any]:
    """A copy of `config` with dotted keys set from text, each in the type that its field takes.

    `allowed`: prefixes of the keys that may be set; `otherwise`: what to say of another. Raises InputError for an unknown key
    (naming the nearest), for a whole section, for text that a field cannot take, and for a key that may not be set.
    """
    config = copy.deepcopy(dict(config))
    for key in sorted(overrides, key=lambda key: (key.startswith("model."), not key.endswith(".name"))):
        hint = _hint_of_model(config, key) if key.startswith("model.") else _hint(key)
        if not key.startswith(allowed):
            raise InputError(f"config.{key} {otherwise}")
        _put(config, key.split("."), parse(overrides[key], hint, f"config.{key}"))
    return config


def _put(config: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        config = config.setdefault(name, {})
    config[path[-1]] = value


def _hint(key: str) -> Any:
    """What a common field takes. An open section takes anything; so does the optimizer for the name of an objective."""
    fields: Any = FIELDS
    for depth, name in enumerate(path := key.split(".")):
        done = ".".join(path[:depth])
        if done in OPEN and depth == len(path) - 1 and name.isidentifier():
            return Any
        if done == "optimizer" and name not in fields and depth == len(path) - 2 and name.isidentifier():
            continue  # an objective's own settings, which are those of all
        if not isinstance(fields, Mapping) or name not in fields:
            raise InputError(f"unknown config key {key!r}; the nearest known one is {nearest(key, _keys(FIELDS))!r}")
        fields = fields[name]
    if isinstance(fields, Mapping) or key in OPEN:
        example = f"{key}.{OPEN[key] if key in OPEN else next(iter(fields))}"
        raise InputError(f"config.{key} is a section; set one of its fields, such as --config.{example}=VALUE")
    return fields.hint


def _keys(fields: Mapping[str, Any], prefix: str = "") -> list[str]:
    nested = [_keys(field, f"{prefix}{name}.") for name, field in fields.items() if isinstance(field, Mapping)]
    return [prefix + name for name, field in fields.items() if not isinstance(field, Mapping)] + sum(nested, [])


def _hint_of_model(config: Mapping[str, Any], key: str) -> Any:
    """What a field of the model, or of a section in it, takes: as its function's signature says."""
    from gm_jax import build

    return build.hint(config.get("model", {}), key)


def nearest(name: str, known: Iterable[str]) -> str:
    """The most similar name. A right last component in the wrong section counts as nearer than all else."""
    same_field = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
    return difflib.get_close_matches(name, same_field or list(known), n=1, cutoff=0.0)[0]
