"""Stopping on request: SIGTERM and Ctrl-C are noted, and the loop saves before it leaves."""

import contextlib
import signal
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from gm_jax.system import interrupts


class Signals:
    """Notes SIGTERM and the first Ctrl-C, so that the loop can save; a second Ctrl-C stops at once."""

    def __init__(self):
        self._noted = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        interrupts.check()
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not in the main thread: signals are the caller's affair
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        self._noted = number
        signal.signal(number, self._before[number])

    def received(self) -> int:
        """The signal's number, 0 while there is none. Several hosts agree on it: any one's signal stops all."""
        if jax.process_count() == 1:
            return self._noted
        return int(np.max(multihost_utils.process_allgather(jnp.int32(self._noted))))

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
