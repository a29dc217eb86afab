"""What a run recorded of itself: the lines of metrics.jsonl, and what they say of its speed."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from gm_jax.errors import InputError


class Speed(NamedTuple):
    """Of all train steps that were timed: not the first dispatch of each start, nor evaluation, sampling and saving."""

    step: int  # the last that is logged
    seconds: float
    steps_per_second: float | None  # None: nothing was timed
    mfu: float | None  # model FLOPs utilisation, 0 to 1; None: not known


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; none if the run has not logged yet. A last line that is still being written is left out.

    Raises InputError for a damaged file.
    """
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    try:
        return [json.loads(line) for line in lines[:-1]] + [json.loads(line) for line in lines[-1:] if line.endswith("}")]
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); restore it, or leave this run out") from error


def read_speed(workdir: Path) -> Speed:
    """The run's mean speed, each stretch between two log entries weighed by its duration. Raises InputError as `read_log`."""
    seconds = used = known = step = timed = 0
    for line in read_log(workdir):
        if rate := line.get("steps_per_second"):
            duration = (line["step"] - step) / rate
            seconds, timed = seconds + duration, timed + line["step"] - step
            if line.get("mfu") is not None:
                used, known = used + line["mfu"] * duration, known + duration
        step = line["step"]
    return Speed(step, seconds, timed / seconds if seconds else None, used / known if known else None)
