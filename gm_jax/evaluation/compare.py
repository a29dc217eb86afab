"""Images of any origin held against others: `eval.py --images A --reference B`. No model and no work directory needed."""

import difflib
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

import gm_jax
from gm_jax.core import ByteImages
from gm_jax.data import sources
from gm_jax.errors import InputError
from gm_jax.evaluation import extractors
from gm_jax.metrics.extractor import Extractor, Features, extract_batches
from gm_jax.metrics.inputs import read_images
from gm_jax.metrics.judge import judge
from gm_jax.metrics.reference import Reference, content_digest, load_statistics, make_reference
from gm_jax.metrics.store import FeatureStore
from gm_jax.system import provenance
from gm_jax.system.batching import Progress
from gm_jax.system.cache import cache_dir

SPLITS = ("train", "test")


class Source(NamedTuple):
    """Images and where they come from."""

    name: str
    split: str  # stands for them in the names of metrics
    images: ByteImages
    labels: Int[np.ndarray, " n"] | None
    dataset: sources.Dataset | None = None  # which they are a split of


def compare(
    images: str,
    reference: str,
    settings: Mapping[str, Any],
    data_dir: str = "",
    stage: Callable[[str], Progress] = lambda name: lambda done, total: None,
) -> dict[str, dict[str, Any]]:
    """Every metric that can be had of `images` against `reference`: name -> {"value", ... and provenance}.

    Each is a folder of images, an .npz file with `images` (and `labels`), or a data set's split ("cifar10:train"); the
    reference may also be an .npz file with `mu` and `sigma`, which serves the Frechet distance only. `settings` are
    `config.eval`: of them `extractor` and `inception` count. `data_dir` is where the data sets lie. `stage(name)` is called as
    a part of the work begins, and gives what is called with (images done, images in all).

    Raises InputError for what is missing or cannot be read, fewer than 2 images, images of two sizes, and statistics of
    other features.
    """
    images, reference = (os.path.expanduser(source) for source in (images, reference))
    if data_dir and not any(_is_split(source) for source in (images, reference)):
        raise InputError(f"data.dir={data_dir} is for data sets such as cifar10:train; {images} and {reference} are files")
    judged = read(images, data_dir)
    if _holds_statistics(reference):
        extractor = extractors.choose(settings, judged.dataset)
        real, split = load_statistics(reference), _label(reference)
        _check_features(real, extractor, judged)
    else:
        source = read(reference, data_dir)
        _check_sizes(judged, source)
        extractor, split = extractors.choose(settings, source.dataset or judged.dataset), source.split
        progress = stage(f"features of {source.name}")
        real = make_reference(extractor, source.images, source.name, labels=source.labels, progress=progress)
    digest = content_digest(judged.images)
    features = _features(extractor, judged.images, digest, stage(f"features of {judged.name}"))
    origin = {
        "images": {"name": judged.name, "n": len(judged.images), "digest": digest},
        "versions": {"gm_jax": gm_jax.__version__} | provenance.versions(),
        "device": provenance.hardware(),
    }
    found = judge(features, real, extractor, split, labels=judged.labels)
    return {name: entry | origin for name, entry in found.items()}


def read(source: str, data_dir: str = "") -> Source:
    """The images that `source` (see `compare`) names. Raises InputError where there are fewer than 2 to be had."""
    if _is_split(source):
        name, _, split = source.rpartition(":")
        if split not in SPLITS:
            nearest = difflib.get_close_matches(split, SPLITS, n=1, cutoff=0)[0]
            raise InputError(f"{source}: {name} has no split {split!r}; did you mean {name}:{nearest}?")
        data = sources.load(name, data_dir)
        x, y = (data.x_train, data.y_train) if split == "train" else (data.x_test, data.y_test)
        found = Source(f"{name} {split}", split, x, y, data)
    else:
        if not Path(source).exists():
            raise InputError(
                f"{source} does not exist; give a folder of images, an .npz file with `images`, or a data set's split, "
                "such as cifar10:train"
            )
        found = Source(source, _label(source), *read_images(source))
    if len(found.images) < 2:
        raise InputError(f"{source} holds {len(found.images)} images; a distribution needs at least 2")
    return found


def _features(extractor: Extractor, images: ByteImages, digest: str, progress: Progress) -> Features:
    """Features of images. They are kept on disk until they are complete, so that an interrupted call goes on."""
    store = FeatureStore(cache_dir("unfinished"), repr((extractor.name, extractor.digest, digest)))
    rest = images[len(store) :]
    for batch in extract_batches(extractor, rest) if len(rest) else ():
        store.append(batch)
        progress(len(store), len(images))
    return store.pop()


def _is_split(source: str) -> bool:
    return ":" in source and not Path(source).exists()


def _label(path: str) -> str:
    """A file's name as a part of a metric's name."""
    return re.sub(r"\W+", "_", Path(path).resolve().name.removesuffix(".npz"))


def _holds_statistics(source: str) -> bool:
    if not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return {"mu.npy", "sigma.npy"} <= set(archive.namelist())


def _check_sizes(judged: Source, reference: Source) -> None:
    sizes = ["x".join(map(str, source.images.shape[1:])) for source in (judged, reference)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{judged.name} holds images of {sizes[0]} and {reference.name} of {sizes[1]} (height x width x channels); "
            "give images of one size: metrics see every resizing"
        )


def _check_features(reference: Reference, extractor: Extractor, judged: Source) -> None:
    """Before the features are computed, which may take hours."""
    one = jax.ShapeDtypeStruct((1, *judged.images.shape[1:]), np.uint8)
    made = jax.eval_shape(extractor.fn, extractor.variables, one).features.shape[1]
    wanted = len(reference.statistics.mean)
    if made != wanted:
        raise InputError(
            f"{reference.name} holds statistics of {wanted} features, but {extractor.name} makes {made}; choose the extractor "
            "that they were made with (config.eval.extractor)"
        )
