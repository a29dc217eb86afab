"""What both commands do around their work: errors as one line with an exit code, compiled programs kept."""

import errno
import os
import sys
from collections.abc import Callable, Sequence

from gm_jax.errors import InputError


def exit_code(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """`main(argv)`, with what users can cause reported as one line. A bug keeps its traceback."""
    try:
        return main(argv)
    except InputError as error:
        return fail(error, 2)
    except KeyboardInterrupt:
        return fail("interrupted; the same command continues", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        return fail(f"{error.strerror}: {error.filename or 'a file'}; free space, or choose a directory that you can write", 2)


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
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/gm_jax/xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
