"""What both commands do around their work: errors as one line with an exit code, compiled programs kept."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Sequence

from gm_jax.errors import InputError
from gm_jax.system import interrupts
from gm_jax.system.cache import cache_dir

CAUSED_BY_USERS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)


def exit_code(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """`main(argv)`, with what users can cause reported as one line. A bug keeps its traceback."""
    interrupts.watch()
    try:
        return main(argv)
    except InputError as error:
        return fail(error, 2)
    except KeyboardInterrupt:
        return fail("interrupted; the same command continues", 130)
    except OSError as error:
        if error.errno not in CAUSED_BY_USERS:
            raise
        return fail(f"{error.strerror}: {error.filename or 'a file'}; free space, or choose a path that can be written", 2)


def fail(message: object, code: int) -> int:
    """Says in one line on stderr what went wrong; returns `code`."""
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return code


def set_up_jax() -> None:
    """Keeps compiled programs between runs, unless the environment already says where, and memory between steps."""
    import jax

    from gm_jax.system.devices import keep_memory

    keep_memory()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        with contextlib.suppress(InputError):  # without a home every start compiles anew
            jax.config.update("jax_compilation_cache_dir", str(cache_dir("xla")))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
