"""What one run cost and reached, in one small JSON file, and the pages that show such files.

    python -m gm_jax.report.summary runs/vae-cifar10 --out results/cifar10/vae.json
    python -m gm_jax.report.summary --tables results README.md

The second command makes the generated parts of README.md and of results/README.md anew. Every number comes from the files of
the run; none is typed.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gm_jax.errors import InputError
from gm_jax.evaluation import results
from gm_jax.report import catalogue
from gm_jax.report.catalogue import insert as insert
from gm_jax.system.files import write_atomically
from gm_jax.training import workdirs
from gm_jax.training.records import read_speed

BEGIN, END = catalogue.markers("results")


def summarize(workdir: Path) -> dict[str, Any]:
    """Config, cost and metrics of a work directory.

    `seconds` is time in train steps: without the first dispatch of each start (which compiles), evaluation, sampling or saving.
    Raises InputError where there is no run.
    """
    record = workdirs.read(workdir)
    speed = read_speed(workdir)
    config = {**record.config, "data": {**record.config["data"], "dir": ""}}  # where data lies is nobody else's affair
    batch_size = config["train"]["batch_size"]
    images = speed.step * batch_size
    measured = results.read(workdir / "results.json")
    entries = [*itertools.chain(*measured["metrics"].values()), *measured["pictures"].values()]
    return {
        "config": config,
        "hardware": record.hardware,
        "versions": record.versions,
        "steps": speed.step,
        "images": images,
        "epochs": images / record.train_images,
        "seconds": speed.seconds,
        "images_per_second": speed.steps_per_second and speed.steps_per_second * batch_size,
        "parameters": record.parameters,
        "nfe": sorted({entry["nfe"] for entry in entries if "nfe" in entry}),
        "metrics": measured["metrics"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command lines above; 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m gm_jax.report.summary",
        usage="python -m gm_jax.report.summary WORKDIR [--out FILE]\n"
        "       python -m gm_jax.report.summary --tables RESULTS README",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("workdir", nargs="?", type=Path, help="of the run to summarize")
    parser.add_argument("--out", type=Path, help="where the summary goes; default: standard output")
    parser.add_argument(
        "--tables",
        nargs=2,
        type=Path,
        metavar=("RESULTS", "README"),
        help="make the generated parts of README and of RESULTS/README.md anew, from RESULTS/*/*.json",
    )
    flags = parser.parse_args(argv)
    if (flags.workdir is None) == (flags.tables is None) or (flags.tables and flags.out):
        parser.error("give a work directory, or --tables RESULTS README")
    try:
        files = catalogue.generate(*flags.tables) if flags.tables else {flags.out: _as_json(summarize(flags.workdir))}
    except (InputError, OSError) as error:
        print("error:", error, file=sys.stderr)
        return 2
    for path, text in files.items():
        if path:
            write_atomically(path, text.encode())
        else:
            print(text, end="")
    return 0


def _as_json(summary: dict[str, Any]) -> str:
    return json.dumps(summary, indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
