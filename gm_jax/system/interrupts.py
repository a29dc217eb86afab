"""Ctrl-C from the first moment on. Python drops a KeyboardInterrupt that rises inside a callback of the garbage collector, as
JAX has one: so it is noted as well, and whoever begins long work looks at the note."""

import contextlib
import signal
from types import FrameType

_noted = False


def watch() -> None:
    """Notes Ctrl-C from now on, besides raising KeyboardInterrupt as ever. Outside the main thread it does nothing."""
    global _noted
    _noted = False

    def note(number: int, frame: FrameType | None) -> None:
        global _noted
        _noted = True
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody has other plans
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGINT, note)


def check() -> None:
    """Raises the KeyboardInterrupt that may have been dropped."""
    if _noted:
        raise KeyboardInterrupt
