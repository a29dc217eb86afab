"""Runs the benchmarks, each in a process of its own, and brings the tables of `benchmarks/README.md` up to date.

    python -m benchmarks [NAME ...]

All by default. Rows go to `benchmarks/results/DEVICE.json`, in the place of those of the same script or path. Exit code 1 if a
benchmark failed; what the others found is kept.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.measure import Row
from gm_jax.report.summary import insert
from gm_jax.system.files import write_atomically

FOLDER = Path(__file__).parent
PACKAGES = ("jax", "jaxlib", "flax", "torch")  # whose versions are kept
PROBE = "import jax, json; d = jax.devices(); print(json.dumps([d[0].platform, d[0].device_kind, len(d)]))"
HEADER = "| path | gm_jax | best other | ratio | date |\n| --- | --- | --- | --- | --- |\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line above; 2 for an unknown name."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names())}; default: all")
    wanted = parser.parse_args(argv).names or names()
    if unknown := [name for name in wanted if name not in names()]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; known: {', '.join(names())}")
    where, failed = machine(), []
    for name in wanted:
        rows = run(name)
        if rows is None:
            failed.append(name)
        else:
            save(labelled(rows, name, where), slug(where["device"]))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


# --- running ------------------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """Of the scripts that have rows."""
    return sorted(file.stem for file in FOLDER.glob("*.py") if "\ndef rows(" in file.read_text())


def run(name: str) -> list[dict[str, Any]] | None:
    """The rows of one benchmark; None if it failed."""
    print(f"--- {name}", flush=True)
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ  # leaves memory to PyTorch
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", f"--json={file}"]
        done = subprocess.run(command, cwd=FOLDER.parent, env=environment)
        return json.loads(file.read_text()) if done.returncode == 0 else None


def machine() -> dict[str, Any]:
    """What figures depend on. JAX is asked in another process, so that this one does not take hold of an accelerator."""
    output = subprocess.run([sys.executable, "-c", PROBE], stdout=subprocess.PIPE, text=True, check=True).stdout
    backend, kind, count = json.loads(output)
    hardware = f"{cpu_model()}, {os.cpu_count()} cores" if backend == "cpu" else f"{count} x {kind}"
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {"device": kind, "hardware": hardware, "versions": versions}


def cpu_model() -> str:
    """As Linux names it, or else as Python does."""
    with contextlib.suppress(OSError):
        if found := re.search(r"^model name\s*: (.+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


# --- keeping ------------------------------------------------------------------------------------------------------------------


def labelled(rows: Iterable[dict[str, Any]], script: str, where: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows with the script that they come from, today's date and the machine."""
    date = datetime.date.today().isoformat()
    return [{**row, "script": script, "date": date, "machine": where} for row in rows]


def merge(old: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """`old` with the rows of the same scripts or paths replaced; ordered by script."""
    new = list(new)
    scripts, paths = ({row[key] for row in new} for key in ("script", "path"))
    kept = [row for row in old if row["script"] not in scripts and row["path"] not in paths]
    return sorted([*kept, *new], key=lambda row: row["script"])


def save(rows: list[dict[str, Any]], device: str) -> None:
    """Merges rows into the results of a device, and renews the README."""
    rows = merge(load().get(device, []), rows)
    write_atomically(FOLDER / "results" / f"{device}.json", (json.dumps(rows, indent=1) + "\n").encode())
    readme = FOLDER / "README.md"
    write_atomically(readme, insert(readme.read_text(), render(load())).encode())


def load() -> dict[str, list[dict[str, Any]]]:
    """All results: rows by device."""
    return {file.stem: json.loads(file.read_text()) for file in sorted((FOLDER / "results").glob("*.json"))}


def slug(text: str) -> str:
    """As a file name: "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# --- rendering ----------------------------------------------------------------------------------------------------------------


def render(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Markdown: a table for each device."""
    return "\n".join(table(rows) for rows in results.values()) or "Nothing is measured yet.\n"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where the rows were measured, and a line for each."""
    places = dict.fromkeys(place(row["machine"]) for row in rows)
    return f"On {'; or '.join(places)}:\n\n{HEADER}" + "".join(map(line, rows))


def place(where: Mapping[str, Any]) -> str:
    """The machine and its software in words."""
    versions = ", ".join(f"{package} {number}" for package, number in where["versions"].items())
    return f"{where['hardware']} ({versions})"


def line(entry: Mapping[str, Any]) -> str:
    """One row of the table."""
    row = Row(**{field: entry[field] for field in Row._fields})
    path = f"{row.path} ({row.note})" if row.note else row.path
    ratio = f"{row.ratio:.2f}" if row.ratio >= 0.1 else f"{row.ratio:.2g}"
    other = f"{duration(row.theirs)}, {row.against}"
    return f"| {path} | {duration(row.ours)} per {row.unit} | {other} | {ratio} | {entry['date']} |\n"


def duration(seconds: float) -> str:
    """Three digits, with their unit."""
    size, unit = next(((s, u) for s, u in ((1, "s"), (1e-3, "ms")) if seconds >= s), (1e-6, "µs"))
    return f"{seconds / size:.0f} {unit}" if seconds >= 100 * size else f"{seconds / size:.3g} {unit}"


if __name__ == "__main__":
    sys.exit(main())
