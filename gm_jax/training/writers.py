"""What a run records: metrics.jsonl, TensorBoard events, and a progress line."""

import json
import math
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from gm_jax.system.files import write_atomically


def truncate_metrics(path: Path, step: int) -> None:
    """Cuts metrics.jsonl back to `step`: what a run that was killed had logged beyond its last checkpoint goes."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):  # the line that was being written when the run was killed
            continue
    write_atomically(path, "".join(line + "\n" for line in kept).encode())


class Writer:
    """Appends scalars to metrics.jsonl and to TensorBoard events, from `step` on. Inactive where `active` is False."""

    def __init__(self, workdir: Path, step: int, active: bool = True):
        self.active = active
        if active:
            truncate_metrics(workdir / "metrics.jsonl", step)
            self._file = open(workdir / "metrics.jsonl", "a")  # noqa: SIM115 (closed by close())
            purge = step + 1 if step else None
            # Names end in the step: a run that is resumed within a second would else overwrite what it wrote before.
            self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge, filename_suffix=f".{step}")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self.active:
            finite = {key: value if math.isfinite(value) else None for key, value in values.items()}
            self._file.write(json.dumps({"step": step, **finite}, allow_nan=False) + "\n")
            self._file.flush()
            for key, value in values.items():
                self._events.add_scalar(key, value, step)

    def warnings(self, step: int, lines: list[str]) -> None:
        if self.active:
            self._file.write(json.dumps({"step": step, "warnings": lines}) + "\n")
            self._file.flush()

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        if self.active:
            self._events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        if self.active:
            self._file.close()
            self._events.close()


class Clock:
    """Training speed: counts only the time between `start` and `stop`, so that sampling and saving do not blur it."""

    def __init__(self):
        self.seconds, self.steps, self._since = 0.0, 0, None

    def start(self) -> None:
        self._since = self._since or time.perf_counter()

    def stop(self) -> None:
        if self._since is not None:
            self.seconds += time.perf_counter() - self._since
            self._since = None

    def restart(self) -> float:
        """Forgets what came so far (the compilation, say) and returns its seconds."""
        self.stop()
        seconds, self.seconds, self.steps = self.seconds, 0.0, 0
        self.start()
        return seconds

    def lap(self) -> float:
        """Steps per second since the last lap."""
        self.stop()
        steps = self.steps
        seconds = self.restart()
        return steps / seconds if seconds else 0.0


class Display:
    """A progress bar on a terminal, and a line per log entry elsewhere."""

    def __init__(self, first: int, last: int, batch_size: int, active: bool = True):
        self.console = Console(highlight=False, soft_wrap=True, quiet=not active)
        self.batch_size, self.last = batch_size, last
        columns = (TextColumn("step {task.completed}/{task.total}"), BarColumn(None), TextColumn("{task.description}"))
        self._bar = Progress(
            *columns, TextColumn("ETA"), TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal
        )
        self._task = self._bar.add_task("compiling", total=last, completed=first)
        self._bar.start()

    def advance(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def log(self, step: int, rate: float, mfu: float | None, values: Mapping[str, float]) -> None:
        losses = "  ".join(f"{key} {value:.4g}" for key, value in values.items() if key.endswith("/loss"))
        used = "" if mfu is None else f"MFU {mfu:.1%}  "
        text = f"{rate:.3g} steps/s  {rate * self.batch_size:.4g} images/s  {used}{losses}"
        self._bar.update(self._task, completed=step, description=text)
        if not self.console.is_terminal:
            left = timedelta(seconds=round((self.last - step) / rate)) if rate else "unknown"
            self.console.print(f"step {step}/{self.last}  {text}  ETA {left}")

    def print(self, text: str) -> None:
        self.console.print(text)

    def close(self) -> None:
        self._bar.stop()
