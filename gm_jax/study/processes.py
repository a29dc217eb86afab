"""One process at a time: its log, its time, its end; and no two studies, nor what is left of one, in the same directory."""

import contextlib
import fcntl
import math
import os
import pathlib
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, NamedTuple

import gm_jax
from gm_jax.errors import InputError

POLL = 0.2  # seconds
GRACE = 600.0  # seconds that a process has for saving, once asked to stop; compilation may have to end first


class Outcome(NamedTuple):
    """How a process ended."""

    code: int  # exit code; -n: died of signal n
    seconds: float  # wall-clock
    stopped: bool  # asked to stop by its limit or by `enough`
    last_line: str  # of its log


@contextlib.contextmanager
def alone_in(directory: pathlib.Path) -> Iterator[IO[str]]:
    """Raises InputError where another study is at work in `directory`; what a killed one left running is stopped first.

    Yields a file that processes are to inherit: it stays locked as long as one of them lives.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".study.lock").open("a+") as own, (directory / ".process.lock").open("a+") as shared:
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another study is at work in {directory}; wait for it, or choose another --workdir") from None
        try:
            fcntl.flock(shared, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            shared.seek(0)
            with contextlib.suppress(ValueError, ProcessLookupError):  # it has ended meanwhile
                os.kill(int(shared.read()), signal.SIGTERM)
            fcntl.flock(shared, fcntl.LOCK_EX)
        yield shared


def run(
    command: Sequence[str],
    log: pathlib.Path,
    lock: IO[str],
    limit: float = math.inf,
    enough: Callable[[], bool] = lambda: False,
    ticks: Sequence[Callable[[float], None]] = (),
) -> Outcome:
    """Runs a command, its output appended to `log`. It is sent SIGTERM after `limit` seconds, or once `enough` says so.

    `ticks` are called with the seconds so far, several times a second. An exception, such as that of Ctrl-C, stops the process,
    waits for what it saves, and goes on.
    """
    paths = [str(pathlib.Path(gm_jax.__file__).parents[1]), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONUNBUFFERED": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    _note(lock, "")
    with log.open("a") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        begin = file.tell()
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            pass_fds=(lock.fileno(),),
            start_new_session=True,  # Ctrl-C reaches the study only, which passes it on
        )
        _note(lock, str(process.pid))
        stopped = False
        try:
            while process.poll() is None:
                seconds = time.monotonic() - started
                for tick in ticks:
                    tick(seconds)
                if not stopped and (seconds >= limit or enough()):
                    stopped, limit = True, seconds
                    process.terminate()
                if stopped and seconds > limit + GRACE:
                    process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
        except BaseException:
            _stop(process)
            raise
        finally:
            for tick in ticks:
                tick(time.monotonic() - started)
    return Outcome(process.returncode, time.monotonic() - started, stopped, last_line(log, begin))


def _stop(process: subprocess.Popen) -> None:
    """Waits for what it saves; a second Ctrl-C does not."""
    process.terminate()
    try:
        process.wait(GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, SystemExit):
        process.kill()
        process.wait()


def _note(lock: IO[str], text: str) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(text)
    lock.flush()


def last_line(log: pathlib.Path, begin: int = 0) -> str:
    """The last line of a log that says something, from byte `begin` on; "" if none does."""
    with log.open("rb") as file:
        file.seek(max(begin, log.stat().st_size - 10_000))
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
