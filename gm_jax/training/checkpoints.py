"""Checkpoints by orbax: written in the background, complete or absent, the damaged ones passed over."""

import logging
import shutil
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from gm_jax.core import PyTree
from gm_jax.errors import InputError

logging.getLogger("absl").setLevel(logging.ERROR)  # orbax reports every file at INFO, and every fallback at WARNING


class Checkpoints:
    """The checkpoints of a work directory: the newest `keep`, and one of every `keep_every` steps for good (0 = none)."""

    def __init__(self, workdir: Path, keep: int = 2, keep_every: int = 0):
        self.folder = workdir.absolute() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, keep_period=keep_every or None, create=False)
        self._options = options
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        if self._manager is not None:
            self._manager.close()

    def steps(self) -> list[int]:
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
            self._open().save(step, args=ocp.args.StandardSave(state))

    def wait(self) -> None:
        """Until all that was asked for is on disk."""
        with _disk_errors(self.folder):
            self._open().wait_until_finished()

    def restore(self, abstract: PyTree, sharding: jax.sharding.Sharding, repair: bool = True) -> PyTree | None:
        """The newest checkpoint that can be read, placed by `sharding`; None where there is none at all.

        Damaged newer ones are reported and, with `repair`, moved aside, so that their steps can be saved again.
        Raises InputError if there are checkpoints but none can be read.
        """
        target = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), abstract)
        damaged, reason = [], ""
        for step in reversed(self.steps()):
            try:
                state = self._open().restore(step, args=ocp.args.StandardRestore(target))
            except Exception as error:  # orbax and tensorstore raise many kinds for damaged files
                damaged.append(step)
                reason = reason or f"{type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
                continue
            for bad in damaged:
                print(f"checkpoint {bad} is damaged ({reason}); falling back to {step}", flush=True)
            if repair and damaged:
                self._set_aside(damaged)
            return state
        if damaged:
            raise InputError(f"no checkpoint in {self.folder} can be read ({reason}); restore one, or choose another --workdir")
        return None

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


class _disk_errors:
    """Turns a full disk into one clear line."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None and ("No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error)):
            raise InputError(
                f"no space left in {self.folder}; free some and rerun to resume from the last checkpoint"
            ) from error
