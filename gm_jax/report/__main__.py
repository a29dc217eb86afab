"""Compares runs: python -m gm_jax.report runs/a runs/b ... --out DIR

Writes DIR/index.html, one file that shows metrics, costs, curves, pictures and provenance and needs no other file, and
DIR/report.md, the same tables.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gm_jax.errors import InputError
from gm_jax.report import page, runs
from gm_jax.system.files import write_atomically


def write(patterns: Sequence[str], out: Path, remarks: Sequence[str] = ()) -> tuple[Path, list[Path]]:
    """Writes the report on the work directories, `remarks` first; the page's path, and the directories that hold no run.

    Raises InputError where there is nothing to report, for damaged files, and for an `out` that cannot be written.
    """
    workdirs, others = runs.find(patterns)
    data_sets = page.collect(runs.read(workdirs))
    try:
        write_atomically(out / "report.md", page.markdown(data_sets, remarks).encode())
        write_atomically(out / "index.html", page.html(data_sets, remarks).encode())
    except OSError as error:
        raise InputError(f"cannot write into {out} ({error.strerror}); choose another --out") from error
    return (out / "index.html").resolve(), [other for other in others if other.resolve() != out.resolve()]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line above; 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m gm_jax.report", description=__doc__.splitlines()[0])
    parser.add_argument("workdirs", nargs="+", help="work directories of train.py, or patterns such as 'runs/*'")
    parser.add_argument("--out", type=Path, required=True, help="folder of the report")
    parser.add_argument("--remark", action="append", default=[], help="a line for the top of the report; may be repeated")
    flags = parser.parse_args(argv)
    try:
        path, others = write(flags.workdirs, flags.out, flags.remark)
    except InputError as error:
        print("error:", error, file=sys.stderr)
        return 2
    for other in others:
        print(f"left out: {other} holds no run (no config.json)", file=sys.stderr)
    print(f"Report: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
