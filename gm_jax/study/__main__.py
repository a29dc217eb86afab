"""The command line: `python -m gm_jax.study --help`.

Exit codes: 0 done; 1 a model failed; 2 bad input; 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, after the process at work has saved.
"""

import argparse
import contextlib
import math
import pathlib
import signal
import sys
from collections.abc import Iterator, Sequence

from gm_jax.cli.flags import Parser, parse, whole
from gm_jax.cli.running import exit_code
from gm_jax.errors import InputError
from gm_jax.study import conduct, entries, processes
from gm_jax.study.ledger import Ledger
from gm_jax.study.view import View

USAGE = """python -m gm_jax.study [--preset=cifar10|digits|tiny] [--models=NAME[,NAME...]] [--minutes=M] [--workdir=DIR]
       [--n=N] [--config.FIELD=VALUE ...]"""
EPILOG = f"""\
examples:
  python -m gm_jax.study --preset=digits                                   half an hour on two CPU cores
  python -m gm_jax.study --minutes=3 --config.data.dir=/path/to/cifar10    the same wall-clock time for each model
  python -m gm_jax.study --preset=digits --models=vae,configs/mine.py      a model of yours beside one of these
  python -m gm_jax.study --models=vae,mmd_vae --config.train.steps=2000 --config.eval.sets=3

models: {", ".join(entry.name for entry in entries.STUDIES["cifar10"])}.
All get the same data, seed and tasks of eval.py; --config.FIELD=VALUE sets a field for all of them. Each is a work directory of
its own, DIR/NAME, beside DIR/logs and DIR/report/index.html.

A model of yours needs a config file with get_config(preset), whose model.name may be the dotted path of your module. It is
named by its file, or FILE:PRESET; without a preset it is asked for that of the study.

The same command again goes on where it was: what is trained and evaluated is left alone. Only --minutes adds to what a model
has had, once a call has come to its end. They count from the start of its process and include compilation and the curve of a
metric over training. How many steps they will allow is found out before, in a rehearsal; from that follow how often things are
measured, and when the second stage of a model with two begins."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the study on `argv` (default: the process's own arguments) and returns the exit code."""
    return exit_code(_study, sys.argv[1:] if argv is None else argv)


def _study(argv: Sequence[str]) -> int:
    flags, overrides = parse(_parser(), argv)
    chosen = entries.find(flags.models, flags.preset)
    settings = {entry.name: entries.resolve(entry, overrides) for entry in chosen}
    directory = pathlib.Path(flags.workdir or f"runs/study-{flags.preset}").expanduser().absolute()
    if directory.is_file():
        raise InputError(f"{directory} is a file; choose another --workdir")
    with processes.alone_in(directory) as lock, _stopping():
        ledger = Ledger(directory, flags.preset)
        plan = conduct.Request(directory, chosen, settings, flags.minutes, flags.n)
        failures = conduct.Study(plan, ledger, lock, View([entry.name for entry in chosen])).conduct()
    for name, why in failures.items():
        print(f"error: {name} failed: {why} (log: {directory / 'logs' / name}.log)", file=sys.stderr)
    page = directory / "report" / "index.html"
    print(f"report: {page}" if page.is_file() else "no report: no model has begun to train")
    return 1 if failures else 0


@contextlib.contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM, and the end of the terminal, leave the study as Ctrl-C does: the process at work is stopped first."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return minutes


def _parser() -> Parser:
    parser = Parser("-m gm_jax.study", USAGE, EPILOG)
    parser.add_argument("--preset", default="cifar10", help=f"{', '.join(entries.STUDIES)}; default: cifar10")
    parser.add_argument("--models", metavar="NAMES", default="", help="separated by commas; config files may be among them")
    parser.add_argument("--minutes", type=_minutes, metavar="M", help="of training, for each; default: its config's steps")
    parser.add_argument("--workdir", metavar="DIR", help="default: runs/study-PRESET")
    parser.add_argument("--n", type=whole(1), help="images to judge by; default: each task's own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
