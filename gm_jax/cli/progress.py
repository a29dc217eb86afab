"""What is going on, how far it is and how long it will take: one line on stderr for the present stage of the work."""

import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


class Stages:
    """Shows one stage after the other. On a terminal a bar with percentage, speed and ETA; elsewhere a line where one begins.

    Either way a stage that is done leaves a line with its seconds. A context manager: on leaving, the bar goes.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.perf_counter):
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._clock = clock
        self._bar: Progress | None = None

    def stage(self, name: str) -> Callable[[int, int], None]:
        """Begins a stage, and so ends the one before; the function returned takes (items done, items in all)."""
        begun, first = self._begin(name), None

        def update(done: int, total: int) -> None:
            nonlocal begun, first
            if begun is None:  # it was done, and goes on with other items
                begun, first = self._begin(name), None
            now = self._clock()
            if done >= total:
                self._stop_bar()
                self._print(f"{name}: {total} in {now - begun:.1f} s")
                begun = None
            else:
                first = first or (done, now)  # after the first batch, whose time is mostly compilation
                speed = (done - first[0]) / (now - first[1]) if done > first[0] else 0.0
                self._show(done, total, speed)

        return update

    def __enter__(self) -> "Stages":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop_bar()

    def _begin(self, name: str) -> float:
        self._stop_bar()
        if self._console.is_terminal:
            columns = (TextColumn(name, markup=False), BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=None)
            self._bar.start()
        else:
            self._print(f"{name} ...")
        return self._clock()

    def _show(self, done: int, total: int, speed: float) -> None:
        if self._bar:
            left = f"{speed:.3g}/s  ETA {timedelta(seconds=round((total - done) / speed))}" if speed else ""
            self._bar.update(self._task, completed=done, total=total, description=left)

    def _stop_bar(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False)
