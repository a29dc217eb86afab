"""Work directories as the report sees them."""

import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gm_jax.errors import InputError
from gm_jax.evaluation import results
from gm_jax.report import tables
from gm_jax.report.summary import summarize
from gm_jax.training.records import read_log


class Reported(NamedTuple):
    label: str  # unique among the runs
    model: str  # its model, and by what it differs from other runs of that model
    workdir: Path
    summary: dict[str, Any]  # of gm_jax.report.summary.summarize
    log: list[dict[str, Any]]  # lines of metrics.jsonl
    pictures: dict[str, dict[str, Any]]  # file -> provenance


def find(patterns: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """(work directories, directories that hold no run), of paths and shell patterns; the order is kept, repetitions are not.

    Raises InputError where a path does not exist, a pattern matches nothing, and where no run is left.
    """
    paths: list[Path] = []
    for pattern in patterns:
        found = [Path(pattern)] if Path(pattern).exists() else [Path(path) for path in sorted(glob.glob(pattern))]
        if not found:
            raise InputError(f"{pattern} does not exist; give work directories of train.py")
        paths += [path for path in found if path.resolve() not in [known.resolve() for known in paths]]
    workdirs = [path for path in paths if (path / "config.json").is_file()]
    others = [path for path in paths if path not in workdirs]
    if not workdirs:
        raise InputError(f"no run (no config.json) in {', '.join(map(str, others))}; give work directories of train.py")
    return workdirs, others


def read(workdirs: Sequence[Path]) -> list[Reported]:
    """The runs, named after their directories; by the whole path where names repeat. Raises InputError for damaged files."""
    names = [workdir.resolve().name for workdir in workdirs]
    summaries = [summarize(workdir) for workdir in workdirs]
    return [
        Reported(
            label=name if names.count(name) == 1 else str(workdir),
            model=model,
            workdir=workdir,
            summary=summary,
            log=read_log(workdir),
            pictures=results.read(workdir / "results.json")["pictures"],
        )
        for name, model, workdir, summary in zip(names, tables.labels(summaries), workdirs, summaries, strict=True)
    ]


def provenance(run: Reported) -> str:
    """Everything that is known of a run and of its pictures, as JSON."""
    return json.dumps(run.summary | {"pictures": run.pictures}, indent=1)
