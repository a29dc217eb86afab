"""Figures of papers, as they print them: for orientation, never in a column of measured ones."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

FIGURES = ("FID", "IS", "bits/dim", "MI, nats", "reconstruction loss")  # named as by the source


class Source(NamedTuple):
    """One table of one paper: all its figures were measured alike."""

    source: str
    protocol: str
    systems: tuple[dict[str, Any], ...]  # "model" (its name here), "system" (its name there), and figures as text


def of(data: str, models: Iterable[str]) -> list[Source]:
    """What is known of these models (names of gm_jax.experiment.MODELS) on a data set."""
    wanted = set(models)
    found = []
    for entry in json.loads(Path(__file__).with_name("published.json").read_text()):
        systems = tuple(system for system in entry["systems"] if system["model"] in wanted)
        if entry["data"] == data and systems:
            found.append(Source(entry["source"], entry["protocol"], systems))
    return found


def figures(sources: Iterable[Source]) -> list[str]:
    """Those of FIGURES that any of the sources gives."""
    given = {key for source in sources for system in source.systems for key in system}
    return [figure for figure in FIGURES if figure in given]
