"""What samples are compared with: the features of real images, extracted once and kept on disk.

Features lie in `<cache>/<extractor>-<key>/`, in files of `CHUNK` images that are written as they become ready. The key hashes
the extractor's name and digest and the images themselves, so that what is found there is always right for what was asked: of an
extractor without a lasting digest nothing is kept. An interrupted extraction goes on at the first file that is missing. A
feature takes 4 bytes: 154 MB for 50 000 images with 768 each.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from gm_jax.core import ByteImages
from gm_jax.errors import InputError
from gm_jax.metrics import statistics
from gm_jax.metrics.checks import count_not_finite
from gm_jax.metrics.extractor import Extractor, Features, extract
from gm_jax.metrics.inputs import read_npz
from gm_jax.metrics.statistics import Statistics
from gm_jax.metrics.store import read_part, write_part
from gm_jax.system import cache
from gm_jax.system.batching import Progress

CHUNK = 2048  # images: a minute or two of Inception on two CPU cores


class Reference(NamedTuple):
    """A set of real images as an extractor sees it. Of statistics that were read from a file, what is not known is None."""

    name: str
    digest: str  # sha256 of the images (or, read from a file, of the statistics)
    n: int | None
    statistics: Statistics
    features: Float32[np.ndarray, "n dim"] | None = None  # of all images, in order
    labels: Int[np.ndarray, " n"] | None = None
    logits: Float32[np.ndarray, "n classes"] | None = None
    extractor: tuple[str, str] | None = None  # name and digest of the one it was made with


def make_reference(
    extractor: Extractor,
    images: ByteImages,
    name: str,
    labels: Int[np.ndarray, " n"] | None = None,
    cache_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> Reference:
    """The features and statistics of uint8 images [n, H, W, C], n >= 2, from the cache as far as they are there.

    `cache_dir` defaults to `references` of `gm_jax.system.cache`. `progress(done, n)` is called as images are done. Damaged
    files are made anew. Raises InputError for fewer than two images, features that are not finite, or if the cache cannot be
    written.
    """
    digest = content_digest(images)
    folder = _folder(extractor, digest, cache_dir) if extractor.lasting else None
    chunks = list(_chunks(extractor, images, folder, progress))
    features, logits = (None if part[0] is None else np.concatenate(part) for part in zip(*chunks, strict=True))
    found = statistics.of(features)
    return Reference(name, digest, len(images), found, features, labels, logits, (extractor.name, extractor.digest))


def load_statistics(path: str | Path) -> Reference:
    """A reference for the Frechet distance only: `mu` [d] and `sigma` [d, d] of an .npz file, as pytorch-fid writes them.

    The file does not say which extractor made it: its user must know. Raises InputError for a file that is not like that.
    """
    path = Path(os.path.expanduser(path))
    arrays = read_npz(path, "mu", "sigma")
    mu, sigma = (np.asarray(arrays.get(key, np.nan), np.float64) for key in ("mu", "sigma"))
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise InputError(f"{path} does not hold finite mu [d] and sigma [d, d]; give statistics as pytorch-fid writes them")
    digest = hashlib.sha256(mu.tobytes() + sigma.tobytes()).hexdigest()
    return Reference(path.stem, digest, None, Statistics(mu, sigma, None))


def content_digest(images: ByteImages) -> str:
    """sha256 of what images are: shape, dtype and every level."""
    images = np.ascontiguousarray(images)
    digest = hashlib.sha256(f"{images.dtype} {images.shape}".encode())
    digest.update(images)
    return digest.hexdigest()


def _folder(extractor: Extractor, digest: str, cache_dir: str | Path | None) -> Path:
    root = Path(os.path.expanduser(cache_dir)) if cache_dir else cache.cache_dir("references")
    key = hashlib.sha256(repr((extractor.name, extractor.digest, digest)).encode()).hexdigest()[:32]
    return root / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', extractor.name)}-{key}"


def _chunks(extractor: Extractor, images: ByteImages, folder: Path | None, progress: Progress | None) -> Iterator[Features]:
    """The features of CHUNK images after another, read from the folder or else written into it; None: neither."""
    n = len(images)
    for start in range(0, n, CHUNK):
        stop, path = min(start + CHUNK, n), None if folder is None else folder / f"{start:09d}.npz"
        found = None if path is None else read_part(path)
        if found is None or len(found.features) != stop - start or count_not_finite(found.features):
            found = extract(extractor, images[start:stop], progress=_shifted(progress, start, n))
            if path is not None and not count_not_finite(found.features):  # what is refused is not kept
                write_part(path, found)
        yield found


def _shifted(progress: Progress | None, start: int, n: int) -> Progress | None:
    return None if progress is None else lambda done, _: progress(start + done, n)
