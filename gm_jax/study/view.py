"""What a study shows while it works: a table on stdout that grows by a row a stage, and on a terminal what is going on now."""

import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from gm_jax.report.names import FLOOR, meaning, order, unit
from gm_jax.study.processes import last_line

REFRESH = 1.0  # seconds
SHOWN = 4  # metrics in a row


class View:
    """Rows: model, stage, minutes, and what came of it."""

    def __init__(self, names: list[str], console: Console | None = None):
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._width = max(len("model"), *map(len, names))
        self._print("model", "stage", "minutes", "result")

    def row(self, name: str, stage: str, seconds: float | None = None, text: str = "") -> None:
        self._print(name, stage, "" if seconds is None else f"{seconds / 60:.1f}", text)

    def _print(self, name: str, stage: str, minutes: str, text: str) -> None:
        print(f"{name:<{self._width}}  {stage:<9}  {minutes:>7}  {text}", flush=True)

    @contextlib.contextmanager
    def working(self, name: str, stage: str, log: pathlib.Path) -> Iterator[Callable[[float], None]]:
        """On a terminal shows the seconds so far, which the function yielded is told, and the last line of the log."""
        shown = 0.0

        def show(seconds: float) -> None:
            nonlocal shown
            if self._console.is_terminal and time.monotonic() - shown > REFRESH:
                shown = time.monotonic()
                line = f"{name}: {stage}, {seconds:.0f} s  {last_line(log)}"[: self._console.width - 4]
                status.update(line.replace("[", r"\["))

        with self._console.status(f"{name}: {stage}") as status:
            yield show

    def key_metrics(self, workdir: pathlib.Path) -> str:
        """The first few of the main metrics, of the newest step that was judged."""
        metrics = json.loads((workdir / "results.json").read_text())["metrics"]
        names = sorted((name for name in metrics if meaning(name).main and not name.endswith(FLOOR)), key=order)
        parts = []
        for name in _one_a_kind(names):
            newest = max(metrics[name], key=lambda entry: entry.get("step") or 0)
            value = math.nan if newest["value"] is None else float(newest["value"])
            parts.append(f"{name.removesuffix('_bits_per_dim')} {value:.4g} {unit(name)}".rstrip())
        return ", ".join(parts[:SHOWN])


def _one_a_kind(names: list[str]) -> list[str]:
    """The first of each group: a distance, a likelihood, an error."""
    kinds = {meaning(name).group: name for name in reversed(names)}
    return [name for name in names if name in kinds.values()]
