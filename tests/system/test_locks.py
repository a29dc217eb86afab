"""Locks that one process holds, and Ctrl-C that is not lost."""

import os
import signal
import subprocess
import sys

import pytest

from gm_jax.errors import InputError
from gm_jax.system import interrupts
from gm_jax.system.locks import locked
from gm_jax.training.signals import Signals


def test_a_lock_that_is_held_is_refused_and_is_free_when_its_process_dies(tmp_path):
    path = tmp_path / "made" / "lock"
    code = f"import sys; sys.path[:0] = {sys.path}\nfrom pathlib import Path\nfrom gm_jax.system.locks import locked\n"
    code += f"with locked(Path({str(path)!r})):\n    print('held', flush=True)\n    sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="somebody else"), locked(path, held="somebody else"):
            pass
        other.kill()
    with locked(path):
        pass


def test_a_lock_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"), locked(tmp_path / "file" / "lock"):
        pass


@pytest.fixture
def watched():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.watch()
    yield
    signal.signal(signal.SIGINT, before)
    interrupts._noted = False


def test_an_interrupt_that_python_dropped_stops_the_work_that_begins(watched):
    with Signals():
        pass  # nothing was noted yet
    try:
        os.kill(os.getpid(), signal.SIGINT)
        signal.raise_signal(signal.SIGINT) if not interrupts._noted else None
    except KeyboardInterrupt:
        pass  # as in a callback of the garbage collector, whose exceptions are only printed
    with pytest.raises(KeyboardInterrupt), Signals():
        pass
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()


def test_handlers_of_others_stay():
    own = lambda *_: None  # noqa: E731
    before = signal.signal(signal.SIGINT, own)
    try:
        interrupts.watch()
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
