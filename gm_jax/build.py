"""From a plain dict of settings to a data set and a model."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gm_jax.core import Model
from gm_jax.data import sources
from gm_jax.defaults import FIELDS, plain
from gm_jax.errors import InputError, choose
from gm_jax.nets import autoencoders, autoregressive, backbones, code_priors, couplings, players
from gm_jax.settings import CONTEXT, REQUIRED, Field, convert, describe, fields_of, section_of, unknown

MODELS = {
    "autoguided": "gm_jax.models.autoguided",
    "classifier": "gm_jax.models.classifier",
    "ddpm": "gm_jax.models.ddpm",
    "edm": "gm_jax.models.edm",
    "expost": "gm_jax.models.expost",
    "flow_matching": "gm_jax.models.flow_matching",
    "gan": "gm_jax.models.gan",
    "glow": "gm_jax.models.glow",
    "guided": "gm_jax.models.guided",
    "maf": "gm_jax.models.maf",
    "mmd_vae": "gm_jax.models.mmd_vae",
    "ncsn": "gm_jax.models.ncsn",
    "pixelcnn": "gm_jax.models.pixelcnn",
    "r3gan": "gm_jax.models.r3gan",
    "rae": "gm_jax.models.rae",
    "realnvp": "gm_jax.models.realnvp",
    "reflow": "gm_jax.models.reflow",
    "score_sde": "gm_jax.models.score_sde",
    "stylegan2": "gm_jax.models.stylegan2",
    "vae": "gm_jax.models.vae",
    "vdm": "gm_jax.models.vdm",
    "vdvae": "gm_jax.models.vdvae",
    "vqvae": "gm_jax.models.vqvae",
    "vqvae2": "gm_jax.models.vqvae2",
}


def load_dataset(config: Mapping[str, Any]) -> sources.Dataset:
    """The data set that `config["data"]` names. Raises InputError where it cannot be had."""
    data = config["data"]
    return sources.load(data["name"], dir=data["dir"], resize=data["resize"])


def compute_dtype(precision: str) -> jnp.dtype:
    """The dtype of activations; parameters, optimizer and losses stay float32."""
    low = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return jnp.dtype(choose({"auto": low, "float32": jnp.float32, "bfloat16": jnp.bfloat16}, precision, "precision"))


def build_model(
    config: Mapping[str, Any],
    image_shape: tuple[int, ...],
    num_classes: int | None,
    axis_name: str | None = None,
    data_variance: float | None = None,
) -> Model:
    """Calls the model's `make` with `config["model"]`, and with what it names of the context (`settings.CONTEXT`).

    `data_variance`: of the training data, for initialisation; None where the data are not at hand, and nothing is initialised.
    `config["model"]["name"]` is a key of MODELS, or the dotted path of a module of yours that has a `make`. `build(settings,
    image_shape) -> Model` makes a part of a model, from a section of its settings, for data of the part's own shape.

    Raises InputError for an unknown name or field, for values that do not fit, and for objectives that do not fit together.
    """
    settings = resolve_section(config["model"], "model")
    make = find_make(settings.pop("name"))
    context = {
        "image_shape": tuple(image_shape),
        "num_classes": num_classes,
        "dtype": compute_dtype(config["precision"]),
        "axis_name": axis_name,
        "data_variance": data_variance,
        "build": lambda part, shape: build_model({**config, "model": part}, shape, num_classes, axis_name),
    }
    asked = inspect.signature(make).parameters
    try:
        model = make(**settings, **{name: value for name, value in context.items() if name in asked})
    except (ValueError, TypeError) as error:
        raise InputError(f"model {config['model']['name']!r}: {error}") from error
    _check_objectives(model)
    return model


def _check_objectives(model: Model) -> None:
    names = [objective.name for objective in model.objectives]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"two objectives of this model are called {twice!r}; give each a name of its own")
    own = {objective.name: objective for objective in model.objectives if objective.optimizer is None}
    for objective in model.objectives:
        lender = own.get(objective.optimizer or objective.name)
        if lender is None or lender.group != objective.group:
            raise InputError(
                f"objective {objective.name!r} shares the optimizer of {objective.optimizer!r}, which must be an objective of "
                "the same group with an optimizer of its own"
            )


# --- settings -----------------------------------------------------------------------------------------------------------------


def find_make(name: str) -> Callable[..., Model]:
    """The `make` of a model by its name, see `build_model`. Raises InputError for one that cannot be had."""
    module = name if "." in name else choose(MODELS, name, "model")
    try:
        return importlib.import_module(module).make
    except (ModuleNotFoundError, AttributeError) as error:
        raise InputError(
            f"model {name!r} cannot be used ({error}); give the path of an importable module that has a make()"
        ) from error


# kind of a section -> the function that its name chooses
SECTIONS = {
    "model": find_make,
    "network": backbones.find,
    "autoencoder": autoencoders.find,
    "players": players.find,
    "pixel_network": autoregressive.find,
    "code_prior": code_priors.find,
    "coupling_network": couplings.find,
}


def resolve(config: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of an experiment: those given, checked and in their proper types, and defaults for the rest.

    Raises InputError for the first field that is unknown, of another type or out of range.
    """
    common = {name: value for name, value in config.items() if name != "model"}
    return resolve_common(common) | {"model": resolve_section(config.get("model", {}), "model")}


def resolve_common(given: Mapping[str, Any], fields: Mapping[str, Any] = FIELDS, prefix: str = "") -> dict[str, Any]:
    """The same for all sections but the model's. That of the optimizer may have sections for single objectives."""
    found = {}
    for name, value in given.items():
        key, field = prefix + name, fields.get(name)
        if field is None and prefix == "optimizer." and isinstance(value, Mapping):
            found[name] = {inner: _checked(value[inner], fields.get(inner), f"{key}.{inner}", fields) for inner in value}
        elif isinstance(field, Mapping):
            if not isinstance(value, Mapping):
                raise InputError(f"{key} is a section; give its fields, such as {key}.{next(iter(field))}")
            found[name] = resolve_common(value, field, f"{key}.")
        else:
            found[name] = _checked(value, field, key, fields)
    return plain(fields) | found


def _checked(value: Any, field: Field | None, key: str, known: Mapping[str, Any]) -> Any:
    if field is None:
        raise unknown(key, known)
    return convert(dict(value) if isinstance(value, Mapping) else value, field.hint, key)


def resolve_section(given: Mapping[str, Any], key: str, kind: str = "model") -> dict[str, Any]:
    """The same for a section whose name chooses a model or a network, and for the sections within it."""
    if not isinstance(given.get("name"), str) or not given["name"]:
        raise InputError(f"{key}.name is missing; name a {kind}")
    fields = fields_of(SECTIONS[kind](given["name"]))
    for name in given:
        if name in CONTEXT:
            raise InputError(f"{key}.{name} cannot be set: it follows from the data, precision and parallel; leave it out")
        if name not in fields and name != "name":
            raise unknown(f"{key}.{name}", fields)
    found = {"name": given["name"]}
    for name, field in fields.items():
        if name not in given and field.default is REQUIRED:
            raise InputError(f"{key}.{name} is missing; give {describe(field.hint)}")
        value, inner = given.get(name, field.default), section_of(field.hint)
        if inner is not None:
            found[name] = resolve_section(over(value, field.default), f"{key}.{name}", inner)
        else:
            found[name] = convert(value, field.hint, f"{key}.{name}") if name in given else value
    return found


def over(given: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """What is given of a section, over its default, unless it names something else than that."""
    same = isinstance(default, Mapping) and given.get("name", default["name"]) == default["name"]
    return {**default, **given} if same else dict(given)


def hint(model: Mapping[str, Any], key: str) -> Any:
    """The type and range of a field of the model, such as "model.network.channels", where the config's section `model` says
    which model and network these are. Raises InputError for an unknown field, and for a section."""
    kind, settings, path = "model", model, key.split(".")[1:]
    for name in path[:-1]:
        fields = fields_of(SECTIONS[kind](settings.get("name", "")))
        inner = section_of(fields[name].hint) if name in fields else None
        if inner is None:
            raise unknown(key, [*fields, "name"])
        kind, settings = inner, over(settings.get(name, {}), fields[name].default)
    fields = {**fields_of(SECTIONS[kind](settings.get("name", ""))), "name": Field("", str)}
    if path[-1] not in fields:
        raise unknown(key, fields)
    if section_of(fields[path[-1]].hint):
        raise InputError(f"config.{key} is a section; set one of its fields, such as --config.{key}.name=VALUE")
    return fields[path[-1]].hint
