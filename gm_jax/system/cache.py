"""Where files are kept that can be made or downloaded again: weights, data sets, features, compiled programs."""

import os
from pathlib import Path

from gm_jax.errors import InputError

ENVIRONMENT = "GM_JAX_CACHE"


def cache_dir(*parts: str) -> Path:
    """The folder `parts` below $GM_JAX_CACHE, else below $XDG_CACHE_HOME/gm_jax, else below ~/.cache/gm_jax; it is not made.

    Ask only where the folder is needed: who has no home may do without. Raises InputError, which names GM_JAX_CACHE, where
    there is no such folder and none can be made: no home, or one that belongs to somebody else.
    """
    root = _root()
    if root is None or not _can_be(root):
        what = "there is no home folder" if root is None else f"{root} cannot be made"
        raise InputError(f"{what}, so files have no place to be kept; set {ENVIRONMENT} to a folder that can be written")
    return root.joinpath(*parts)


def _root() -> Path | None:
    """None where there is no home folder to put it in."""
    if given := os.environ.get(ENVIRONMENT, ""):
        return Path(os.path.expanduser(given))
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):  # a relative one is to be ignored, says the XDG Base Directory Specification
        return Path(shared) / "gm_jax"
    home = os.path.expanduser("~")
    return None if home == "~" else Path(home, ".cache", "gm_jax")


def _can_be(folder: Path) -> bool:
    """Whether it is there, if only to be read, or can be made."""
    if os.path.isdir(folder):
        return True
    nearest = next(parent for parent in folder.absolute().parents if os.path.lexists(parent))
    return os.path.isdir(nearest) and os.access(nearest, os.W_OK | os.X_OK)
