"""What config files are made with: `base`, the fields that every experiment has and their defaults (gm_jax/defaults.py), `own`
and `with_preset`.

A config states what differs from them and from the defaults of its model's `make`.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any

from ml_collections import ConfigDict

from gm_jax.defaults import plain
from gm_jax.errors import InputError


def base(**model: Any) -> ConfigDict:
    """The common fields, and those of `model`. New keys are for `model`, `eval.sample` and `eval.likelihood`; else an error."""
    return _closed(ConfigDict({**plain(), "model": model}))


def own(config: ConfigDict, objective: str, **settings: Any) -> None:
    """Settings of the optimizer of one objective, over those of all."""
    config.unlock()
    config.optimizer[objective] = {**config.optimizer.get(objective, {}), **settings}
    _closed(config)


def _closed(config: ConfigDict) -> ConfigDict:
    config.lock()
    for section in (config.model, config.eval.sample, config.eval.likelihood):
        section.unlock()
    return config


def with_preset(config: ConfigDict, preset: str, presets: Mapping[str, Callable[[ConfigDict], None]]) -> ConfigDict:
    """`config` after the preset's changes. Raises InputError for a preset that is not among `presets`."""
    if preset not in presets:
        nearest = get_close_matches(preset, presets, n=1)
        hint = f"did you mean {nearest[0]!r}? Known" if nearest else "known"
        raise InputError(f"unknown preset {preset!r}; {hint} presets: {', '.join(presets)}")
    presets[preset](config)
    return config
