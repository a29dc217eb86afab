"""What one run cost and reached, in one small JSON file, and tables of such files.

    python -m gm_jax.report.summary runs/vae-cifar10 --out results/vae-cifar10.json
    python -m gm_jax.report.summary --table results/*.json [--readme README.md]

Every number comes from the files of the run; none is typed.
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
from gm_jax.report import tables
from gm_jax.system.files import write_atomically
from gm_jax.training import workdirs
from gm_jax.training.records import read_speed

BEGIN, END = "<!-- results -->", "<!-- /results -->"  # the table stands between these lines of a README


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


def table(summaries: Sequence[dict[str, Any]]) -> str:
    """Markdown: for each data set a table, a row a run: what it is, what it cost, what it reached in the main metrics."""
    parts = []
    for data, members in tables.by_data_set(summaries).items():
        labelled = tables.labelled([summaries[i] for i in members])
        cost = {label: _cost(s) for label, s in labelled.items()}
        markdown = tables.markdown_of(tables.build(labelled, main=True), cost, ["parameters", "trained for", "hardware"])
        parts.append(f"On {data}:\n\n{markdown}")
    return "\n".join(parts)


def _cost(s: dict[str, Any]) -> list[str]:
    trained = f"{s['steps']} steps, {s['epochs']:.3g} epochs, {s['seconds'] / 60:.3g} min"
    return [f"{s['parameters']:,}", trained, s["hardware"]]


def insert(readme: str, text: str) -> str:
    """`readme` with `text` between its two marker lines. Raises InputError where they are missing."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise InputError(f"no lines {BEGIN} and {END} to put the table between; add them")
    return f"{head}{BEGIN}\n{text}{END}{tail}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line above; 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m gm_jax.report.summary", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, help="one work directory; with --table, summaries")
    parser.add_argument("--out", type=Path, help="where the summary goes; default: standard output")
    parser.add_argument("--table", action="store_true", help="print the table of several summaries")
    parser.add_argument("--readme", type=Path, help="put the table between the marker lines of this file instead")
    flags = parser.parse_args(argv)
    try:
        if not flags.table:
            text = json.dumps(summarize(flags.paths[0]), indent=1) + "\n"
            target = flags.out
        else:
            text = table([json.loads(path.read_text()) for path in flags.paths])
            target = flags.readme
            text = insert(target.read_text(), text) if target else text
    except InputError as error:
        print("error:", error, file=sys.stderr)
        return 2
    if target:
        write_atomically(target, text.encode())
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
