"""What one run cost and reached, in one small JSON file, and tables of such files.

    python -m gm_jax.report.summary runs/vae-cifar10 --out results/vae-cifar10.json
    python -m gm_jax.report.summary --table results/*.json [--readme README.md]

Every number comes from the files of the run; none is typed.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gm_jax.errors import InputError
from gm_jax.evaluation import results
from gm_jax.images import write_atomically
from gm_jax.training import workdirs

BEGIN, END = "<!-- results -->", "<!-- /results -->"  # the table stands between these lines of a README

# columns of the table: metric -> heading; others stay in the files
COLUMNS = {
    "elbo_bits_per_dim": "ELBO, bits/dim",
    "iwae_bits_per_dim": "IWAE, bits/dim",
    "variational_bound_bits_per_dim": "variational bound, bits/dim",
    "reconstruction_mse": "reconstruction MSE",
}


def summarize(workdir: Path) -> dict[str, Any]:
    """Config, cost and metrics of a work directory.

    `seconds` is time in train steps: without the first dispatch of each start (which compiles), evaluation, sampling or saving.
    Raises InputError where there is no run.
    """
    record = workdirs.read(workdir)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    seconds = step = timed = 0
    for line in lines:
        if rate := line.get("steps_per_second"):
            seconds += (line["step"] - step) / rate
            timed += line["step"] - step
        step = line["step"]
    config = {**record.config, "data": {**record.config["data"], "dir": ""}}  # where data lies is nobody else's affair
    batch_size = config["train"]["batch_size"]
    images = step * batch_size
    return {
        "config": config,
        "hardware": record.hardware,
        "versions": record.versions,
        "steps": step,
        "images": images,
        "epochs": images / record.train_images,
        "seconds": seconds,
        "images_per_second": timed * batch_size / seconds if seconds else None,
        "parameters": record.parameters,
        "metrics": results.read(workdir / "results.json")["metrics"],
    }


def table(summaries: Sequence[dict[str, Any]]) -> str:
    """A Markdown table, a row a run: what it is, what it cost, what it reached (with its standard error, where it has one)."""
    columns = [name for name in COLUMNS if any(name in s["metrics"] for s in summaries)]
    heads = ["run", "parameters", "trained for", "hardware", *(COLUMNS[name] for name in columns)]
    rows = [heads, ["---"] * len(heads)]
    for s in summaries:
        name, data = s["config"]["model"]["name"], s["config"]["data"]["name"]
        cost = f"{s['steps']} steps, {s['epochs']:.3g} epochs, {s['seconds'] / 60:.3g} min"
        cells = [f"{name} on {data}", f"{s['parameters']:,}", cost, s["hardware"]]
        rows.append(cells + ["; ".join(map(_cell, s["metrics"].get(column, []))) or "-" for column in columns])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _cell(entry: dict[str, Any]) -> str:
    error = f" ± {entry['stderr']:.2g}" if "stderr" in entry else ""
    options = ", ".join(f"{key}={value}" for key, value in entry.get("options", {}).items())
    protocol = [entry.get("kind"), options, f"{entry.get('split', 'test')} n={entry['n']}", entry["weights"]]
    return f"{entry['value']:.4g}{error} ({', '.join(part for part in protocol if part)})"


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
