"""From a checkpoint to a model: by an importer, or as it was exported here (`gm_jax.pretrained.exporting`)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gm_jax.build import build_model, resolve
from gm_jax.cli.config import load_config, override, shipped_configs
from gm_jax.core import Model, Variables
from gm_jax.errors import InputError
from gm_jax.pretrained import formats
from gm_jax.pretrained.filling import Leaf, fill
from gm_jax.pretrained.formats import Content
from gm_jax.pretrained.importers import Recognized, recognize
from gm_jax.training.learning import TrainState
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.start import abstract_state

LIBRARY = "gm_jax"  # what an exported config.json says it is of
MULTIPLIERS = {"song_unet": (2, 2, 2), "unet": (1, 2, 2, 2), "refinenet": (1, 2, 2, 2)}  # which a config leaves to the network


class Checkpoint(NamedTuple):
    """A checkpoint, understood."""

    code: str  # whose it is
    licence: str
    config: dict[str, Any]
    image_shape: tuple[int, ...]
    num_classes: int | None  # that its network tells apart
    step: int
    weights: str
    variables: Callable[[TrainState], Variables]  # of these shapes


def load(source: str | Path) -> tuple[Model, Variables]:
    """The model of a checkpoint, without a work directory and without its data: `model, variables = load("some.pkl")`.

    Raises InputError where it cannot be imported.
    """
    checkpoint = understand(formats.read(source))
    config = resolve(checkpoint.config)
    model = build_model(config, checkpoint.image_shape, checkpoint.num_classes)
    optimizers = build_optimizers(config, model)
    abstract = abstract_state(model, optimizers, checkpoint.image_shape, checkpoint.num_classes)
    return model, checkpoint.variables(abstract)


def understand(content: Content, overrides: Mapping[str, str] | None = None) -> Checkpoint:
    """`overrides`: fields of the config, as text. Raises InputError for what cannot be imported."""
    if content.config.get("library") == LIBRARY:
        return _exported(content, overrides or {})
    known = recognize(content)
    return Checkpoint(
        code=known.code,
        licence=known.licence,
        config=config_of(known, overrides or {}),
        image_shape=known.image_shape,
        num_classes=known.num_classes,
        step=known.step,
        weights=known.weights,
        variables=known.variables,
    )


def config_of(known: Recognized, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The preset's config with what the file has otherwise, and then with what is overridden.

    What the file has as the preset is left as the preset has it: the same command line of train.py then is the same run.
    """
    name, _, preset = known.preset.partition(":")
    config = load_config(shipped_configs() / f"{name}.py", preset)
    plain = resolve(config)["model"]
    if "network" in known.model:
        network = plain["network"]
        usual = network | {"channel_multipliers": network["channel_multipliers"] or MULTIPLIERS[network["name"]]}
        config["model"]["network"] |= {key: value for key, value in known.model["network"].items() if usual[key] != value}
    config["model"] |= {key: value for key, value in known.model.items() if key != "network" and plain[key] != value}
    return override(config, dict(overrides))


def _exported(content: Content, overrides: Mapping[str, str]) -> Checkpoint:
    found = content.config
    try:
        return Checkpoint(
            code=LIBRARY,
            licence=found["licence"],
            config=override(found["config"], dict(overrides)),
            image_shape=tuple(found["image_shape"]),
            num_classes=found["num_classes"],
            step=found["step"],
            weights=found["weights"],
            variables=lambda abstract: Variables(
                **fill({"params": abstract.params, "state": abstract.state}, Leaf, content.tree)
            ),
        )
    except KeyError as error:
        raise InputError(f"the config.json beside {content.file} lacks {error}; export it again") from error
