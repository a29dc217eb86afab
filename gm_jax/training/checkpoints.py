"""Checkpoints by orbax: written in the background, complete or absent, the damaged ones passed over."""

import gc
import logging
import shutil
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import UInt32

from gm_jax.core import PyTree
from gm_jax.errors import InputError
from gm_jax.training.failures import LostProcess
from gm_jax.training.parallel import to_host

logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax reports every file; what goes wrong it raises as well


class Checkpoints:
    """The checkpoints of a work directory: the newest `keep`, and one of every `keep_every` steps for good (0 = none)."""

    def __init__(self, workdir: Path, keep: int = 2, keep_every: int = 0):
        self.folder = workdir.absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, keep_period=keep_every or None, create=False)
        self._options = options
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if self._manager is not None and kind is not LostProcess:  # for which it would wait
            with _disk_errors(self.folder):  # of a save that nobody has waited for
                self._manager.close()

    def steps(self) -> list[int]:
        """The steps that are saved, in order."""
        return sorted(self._open().all_steps()) if self.folder.is_dir() else []

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._manager = ocp.CheckpointManager(self.folder, options=self._options)
        return self._manager

    def save(self, step: int, state: PyTree) -> None:
        """Starts saving; returns as soon as `state` may change. A step that is saved already is left as it is.

        Raises InputError where the disk is full.
        """
        if step in self.steps():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(state)), shutil.disk_usage(self.folder).free
        if free < 1.1 * needed:
            raise InputError(
                f"no space for a checkpoint of {needed / 1e6:.0f} MB: {self.folder} has {free / 1e6:.0f} MB left; "
                "free some and rerun to resume"
            )
        with _disk_errors(self.folder):
            content = {"state": state, "checksums": checksums(state)}
            self._open().save(step, args=ocp.args.Composite(arrays=ocp.args.StandardSave(content)))

    def wait(self) -> None:
        """Until all that was asked for is on disk."""
        with _disk_errors(self.folder):
            self._open().wait_until_finished()

    def restore(self, abstract: PyTree, sharding: PyTree, repair: bool = True) -> PyTree | None:
        """The newest checkpoint that can be read, placed by one sharding or a tree of them; None where there is none at all.

        Damaged newer ones are reported and, with `repair`, moved aside, so that their steps can be saved again.
        Raises InputError if there are checkpoints but none can be read.
        """
        if isinstance(sharding, jax.sharding.Sharding):
            sharding = jax.tree.map(lambda _, whole=sharding: whole, abstract)
        state = jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, sharding)
        target = {"state": state, "checksums": np.zeros(len(jax.tree.leaves(abstract)), np.uint32)}
        damaged, reason = [], ""
        for step in reversed(self.steps()):
            state, error = self._read(step, target)
            if state is None:
                damaged.append(step)
                reason = reason or error
                continue
            for bad in damaged if jax.process_index() == 0 else []:
                print(f"checkpoint {bad} is damaged ({reason}); falling back to {step}", flush=True)
            if repair and damaged:
                self._set_aside(damaged)
            return state
        if damaged:
            raise InputError(f"no checkpoint in {self.folder} can be read ({reason}); restore one, or choose another --workdir")
        return None

    def _read(self, step: int, target: PyTree) -> tuple[PyTree | None, str]:
        """(state, "") of one step, or (None, why it cannot be read)."""
        reason = ""
        try:
            # named items: left to infer them, orbax is misled by a folder that lacks its own, and reads none of the others
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(target))
            content = self._open().restore(step, args=args).arrays
        except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
            first_line = str(error).partition("\n")[0][:120]
            reason = f"{type(error).__name__}: {first_line}"
        if reason:
            _quiet_leftovers()
            return None, reason
        if not np.array_equal(checksums(content["state"]), content["checksums"]):
            return None, "its numbers do not match their checksums"
        return content["state"], ""

    def _set_aside(self, steps: list[int]) -> None:
        if self._manager is not None:
            self._manager.close()
            self._manager = None
        if jax.process_index() == 0:
            for step in steps:
                target = self.folder.parent / "damaged_checkpoints"
                target.mkdir(exist_ok=True)
                number = len(list(target.iterdir()))
                (self.folder / str(step)).rename(target / f"{step}-{number}")
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("damaged checkpoints set aside")


def checksums(state: PyTree) -> UInt32[np.ndarray, " leaves"]:
    """crc32 of every leaf's bytes: of what orbax stores, it checks the structure but not the numbers."""
    leaves = [jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(state)]
    return np.array([zlib.crc32(_as_bytes(to_host(leaf))) for leaf in leaves], np.uint32)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _as_bytes(value: Any) -> np.ndarray:
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _quiet_leftovers() -> None:
    """When one array cannot be read, orbax drops the reads of the others, each of which complains with a traceback."""
    before, sys.unraisablehook = sys.unraisablehook, lambda _: None
    gc.collect()
    time.sleep(0.3)  # the reads that are under way end in tensorstore's own threads
    sys.unraisablehook = before


class _disk_errors:
    """Turns a full disk into one clear line."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        # by the system's words: RESOURCE_EXHAUSTED alone may also be the memory of a GPU
        if error is not None and any(words in str(error) for words in ("No space left", "quota exceeded")):
            raise InputError(
                f"no space left in {self.folder}; free some and rerun to resume from the last checkpoint"
            ) from error
