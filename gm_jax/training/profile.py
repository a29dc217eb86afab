"""A trace of some train steps, and its summary: where the time goes on the device, and what the host leaves unused.

    python train.py --config configs/ddpm.py --config.profile=100:110

The trace (`WORKDIR/profile`) opens in TensorBoard's profile plugin, XProf or Perfetto; `summary.json` beside it holds what is
printed.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gm_jax.errors import InputError
from gm_jax.system.files import write_atomically

TOP = 10


class Window(NamedTuple):
    """The steps start <= step < stop; empty where both are 0."""

    start: int
    stop: int


def parse_window(text: str) -> Window:
    """START:STOP, or nothing. Raises InputError for anything else."""
    if not text:
        return Window(0, 0)
    start, _, stop = text.partition(":")
    if not (start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
        raise InputError(f"profile is {text!r}; give the steps to trace as START:STOP, such as 100:110")
    return Window(int(start), int(stop))


class Operation(NamedTuple):
    """One operation of a compiled program, as often as a device executed it: times in seconds from the trace's beginning."""

    name: str
    start: float
    seconds: float


class Summary(NamedTuple):
    """What a trace tells of the devices of one host."""

    steps: int
    seconds: float  # wall clock, from the first operation to the last
    busy: float  # share of it in which a device was executing something
    top: list[tuple[str, float, float]]  # (operation, seconds in all, share of all operations' time), the longest first
    step_flops: float | None  # products and convolutions of a step
    compiled_flops: float | None  # the compiler's own estimate
    mfu: float | None  # step_flops against the measured matrix rate


class Profiler:
    """Traces the steps of a window: `begin` is called before every dispatch, `end` after it."""

    def __init__(self, folder: Path, window: Window):
        self.folder, self.window = folder, window
        self._first: int | None = None  # the step at which the running trace began

    def begin(self, step: int, pending: Any) -> None:
        """Starts the trace where that is due, once `pending` is computed."""
        if self._first is None and self.window.start <= step < self.window.stop:
            jax.block_until_ready(pending)
            jax.profiler.start_trace(str(self.folder))
            self._first = step

    def end(self, step: int, pending: Any, now: bool = False) -> int:
        """Ends the trace where that is due, or `now`, once `pending` is computed; how many steps it has, 0 if none ended."""
        if self._first is None or not (now or step >= self.window.stop):
            return 0
        jax.block_until_ready(pending)
        jax.profiler.stop_trace()
        steps, self._first, self.window = step - self._first, None, Window(0, 0)
        return steps


# --- what a trace says --------------------------------------------------------------------------------------------------------


def read_operations(folder: Path) -> list[Operation]:
    """The operations in the newest trace below `folder`; those that name an HLO instruction, whatever the device."""
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        return []
    trace = jax.profiler.ProfileData.from_file(str(files[-1]))
    return list(_operations(event for plane in trace.planes for line in plane.lines for event in line.events))


def _operations(events: Iterable[Any]) -> Iterator[Operation]:
    """A CPU runs some operations in the background: then an event "end: NAME", which names its beginning, is where it ends."""
    found, ends = [], {}
    for event in events:
        stats = dict(event.stats)
        if "hlo_op" in stats and event.duration_ns > 0:
            found.append((event, str(stats["hlo_op"]), stats.get("_p")))
        elif event.name.startswith("end: "):
            ends[stats.get("_c")] = event.start_ns
    for event, name, context in found:
        finish = max(event.start_ns + event.duration_ns, ends.get(context, 0) if context is not None else 0)
        yield Operation(name, event.start_ns * 1e-9, (finish - event.start_ns) * 1e-9)


def origins(program: str) -> dict[str, str]:
    """Instruction -> the end of the path of modules and functions that it comes from; of a compiled program's text."""
    found = re.findall(r"%?([\w.-]+) = .*?metadata=\{[^}]*op_name=\"([^\"]+)\"", program)
    return {name: "/".join(path.split("/")[-3:]) for name, path in found}


def busy_seconds(operations: Iterable[Operation]) -> float:
    """Length of the union of their intervals."""
    total, end = 0.0, -math.inf
    for operation in sorted(operations, key=lambda o: o.start):
        finish = operation.start + operation.seconds
        total += max(0.0, finish - max(operation.start, end))
        end = max(end, finish)
    return total


def summarize(
    operations: list[Operation],
    steps: int,
    *,
    step_flops: float | None,
    compiled_flops: float | None,
    matrix_rate: float,
    program: str = "",
) -> Summary:
    """What the operations of `steps` steps add up to. Those that contain others (a loop) count beside what they contain.

    `program`: the text of the compiled program, for names that a reader knows.
    """
    origin = origins(program)
    totals: dict[str, float] = {}
    for operation in operations:
        totals[operation.name] = totals.get(operation.name, 0.0) + operation.seconds
    everything = sum(totals.values())
    top = sorted(totals.items(), key=lambda item: -item[1])[:TOP]
    begin = min((o.start for o in operations), default=0.0)
    seconds = max((o.start + o.seconds for o in operations), default=0.0) - begin
    known = bool(step_flops) and math.isfinite(step_flops) and seconds > 0
    return Summary(
        steps=steps,
        seconds=seconds,
        busy=busy_seconds(operations) / seconds if seconds else 0.0,
        top=[(" ".join([name, origin.get(name, "")]).strip(), time, time / everything) for name, time in top],
        step_flops=step_flops if known else None,
        compiled_flops=compiled_flops,
        mfu=step_flops * steps / seconds / matrix_rate if known else None,
    )


def describe(summary: Summary) -> str:
    """The summary in some lines."""
    if not summary.top:
        return f"profile of {summary.steps} steps: this device's trace names no operations"
    lines = [
        f"profile of {summary.steps} steps: {summary.seconds / summary.steps:.4g} s per step, "
        f"device busy {summary.busy:.1%}, host gaps {1 - summary.busy:.1%}"
    ]
    if summary.mfu is not None:
        estimate = f" (compiler's estimate {summary.compiled_flops / 1e9:.4g})" if summary.compiled_flops else ""
        lines.append(
            f"  {summary.step_flops / 1e9:.4g} GFLOP per step{estimate}, {summary.mfu:.1%} of the measured matrix rate"
        )
    lines += [
        f"  {share:6.1%}  {1e3 * seconds / summary.steps:9.3f} ms per step  {name}" for name, seconds, share in summary.top
    ]
    return "\n".join(lines)


def write(summary: Summary, folder: Path) -> None:
    """summary.json, beside the trace."""
    write_atomically(folder / "summary.json", (json.dumps(summary._asdict(), indent=1) + "\n").encode())
