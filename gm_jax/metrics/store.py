"""Features on disk while they are being computed, so that hours of work survive an interruption."""

import hashlib
import io
import os
import shutil
from pathlib import Path

import numpy as np

from gm_jax.errors import InputError
from gm_jax.metrics.extractor import Features
from gm_jax.metrics.inputs import read_npz
from gm_jax.system.files import write_atomically

PART = 256  # images whose features may be lost


class FeatureStore:
    """A growing list of features in a folder of its own, named by what they are features of.

    A store of the same `folder` and `identity` finds what an earlier process had appended, up to its last whole part. A part
    that cannot be read ends the list.
    """

    def __init__(self, folder: Path, identity: str):
        self._folder = folder / hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._saved: list[Features] = []
        while part := read_part(self._path()):
            self._saved.append(part)
        self._pending: list[Features] = []

    def __len__(self) -> int:
        return sum(len(batch.features) for batch in [*self._saved, *self._pending])

    def append(self, batch: Features) -> None:
        """Adds a batch; it is on disk when a part is full."""
        self._pending.append(batch)
        if sum(len(batch.features) for batch in self._pending) >= PART:
            part = join(self._pending)
            write_part(self._path(), part)
            self._saved.append(part)
            self._pending = []

    def _path(self) -> Path:
        return self._folder / f"{len(self._saved):06d}.npz"

    def pop(self) -> Features:
        """All features, in order; the folder is removed."""
        batches = [*self._saved, *self._pending]
        shutil.rmtree(self._folder, ignore_errors=True)
        return join(batches)


def join(batches: list[Features]) -> Features:
    """Batches one behind the other."""
    return Features(*(None if column[0] is None else np.concatenate(column) for column in zip(*batches, strict=True)))


def write_part(path: Path, part: Features) -> None:
    """Writes features into an .npz file, whole or not at all. Raises InputError where that cannot be."""
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value for name, value in part._asdict().items() if value is not None})
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise InputError(
            f"cannot write {path} ({error.strerror}); free some space, or set GM_JAX_CACHE to another folder"
        ) from error


def read_part(path: Path) -> Features | None:
    """None for a file that is missing or damaged: its content is protected by the checksums of the zip format."""
    if not os.path.exists(path):  # which it does not, either, in a folder that must not be read
        return None
    try:
        arrays = read_npz(path, "features", "logits")
    except InputError:
        return None
    whole = "features" in arrays and len({array.shape[:1] for array in arrays.values()}) == 1
    whole = whole and all(array.ndim == 2 for array in arrays.values())
    return Features(arrays["features"], arrays.get("logits")) if whole else None
