"""Locks between the processes of a machine, which a process that dies lets go of."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from gm_jax.errors import InputError


@contextlib.contextmanager
def locked(path: Path, wait: bool = False, held: str = "") -> Iterator[None]:
    """Holds a lock on the file `path`, which is made, and its folders too.

    Where another process holds it: waits with `wait`, else raises InputError with the words `held`. Raises InputError where the
    file cannot be made. A system or a file system without such locks is no reason to stop: then nothing is locked.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}); choose a folder that you can write") from error
    with file:
        if not _take(file, wait):
            raise InputError(held)
        yield


def _take(file: IO[str], wait: bool) -> bool:
    try:
        import fcntl  # Windows has none
    except ImportError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks
        return True
    return True
