"""How every benchmark measures: variants interleaved in one process, ratios of medians, one row of the table each.

A benchmark is a module with `rows(options)`, which builds both sides, checks that they compute the same thing and yields a
`Row` for every comparison; `main(rows)` gives it a command line. Absolute times on a busy machine mean little, ratios more.
"""

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gm_jax.system.devices import keep_memory

OURS = "gm_jax"
PAUSE = 0.25  # seconds before each timing, in which the threads of the variant before go to sleep

keep_memory()  # as train.py and eval.py do; here, because modules that import this one ask for devices


class Row(NamedTuple):
    """One comparison."""

    path: str  # what is computed, as the table names it
    unit: str  # what the seconds are for: "step", "1000 images"
    ours: float  # median seconds
    theirs: float  # median seconds of the fastest other variant
    against: str  # its name
    note: str = ""  # what the reader must know beside

    @property
    def ratio(self) -> float:
        """Below 1, gm_jax is the faster."""
        return self.ours / self.theirs


def compare(
    path: str, unit: str, variants: Mapping[str, Callable[[], Any]], *, rounds: int, per: float = 1.0, note: str = ""
) -> Row:
    """Times `variants`, of which the one named `OURS` is ours, `rounds` times in turn; each call computes `per` units.

    A variant returns when its work is done (`jax.block_until_ready`, `torch.cuda.synchronize`), and is compiled already: by the
    check that all compute the same.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            gc.collect()
            time.sleep(PAUSE)
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) / per)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"  {name:40s} {median:10.4f} s per {unit}", file=sys.stderr)
    ours = medians.pop(OURS)
    best = min(medians, key=medians.__getitem__)
    return Row(path, unit, ours, medians[best], best, note)


def main(rows: Callable[[argparse.Namespace], Iterable[Row]], doc: str, rounds: int = 7, **flags: Any) -> None:
    """The command line of a benchmark: prints its rows; `--json=FILE` writes them, too. `flags`: more, with defaults."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=rounds, help=f"of interleaved timings; default: {rounds}")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    for name, default in flags.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default}")
    options = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}", file=sys.stderr)
    found = []
    for row in rows(options):
        found.append(row)
        seconds = f"{row.ours:.4g} against {row.theirs:.4g} s per {row.unit}"
        print(f"{row.path}: {row.ratio:.3g} x {row.against} ({seconds})", flush=True)
    if options.json:
        options.json.write_text(json.dumps([row._asdict() for row in found]))


def torch_or_exit() -> Any:
    """PyTorch, which benchmarks alone need."""
    try:
        import torch
    except ImportError:
        sys.exit("this benchmark compares with PyTorch, which is not installed: pip install torch")
    return torch
