"""How good the samples are: their features beside those of real images."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from gm_jax.evaluation import extractors
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.draw import draw_batches
from gm_jax.evaluation.results import sampling
from gm_jax.metrics.extractor import Extractor, Features, extract
from gm_jax.metrics.judge import judge
from gm_jax.metrics.reference import Reference, make_reference
from gm_jax.metrics.store import FeatureStore
from gm_jax.system.provenance import digest


def quality(context: Context) -> dict[str, Any]:
    """Frechet distance, KID, precision, recall, density, coverage and, from a classifier's logits, the inception score.

    Each under the name of its protocol (`metrics.judge.metric_name`) for n samples against all images of the reference split.
    With `sets` > 1 the value is the mean over that many sets of n samples, and `std` their standard deviation. Beside each
    stands its `_floor`: the same for real images, n (or all) of the other split. A model that takes labels draws
    its classes in equal numbers; where a classifier looks at them, also how often it finds the class that was asked for.
    """
    extractor = extractors.choose(context.judging, context.dataset)
    split, sets = context.judging["reference"], context.judging["sets"]
    reference = real(context, extractor, split)
    of_real_images = floor(context, extractor, reference)  # first: its features are kept for good, those of samples are not
    labels = context.drawn_labels(context.n * sets)
    features = sample_features(context, extractor, context.n * sets, labels)
    found = [
        judge(_rows(features, part), reference, extractor, split, labels=None if labels is None else labels[part])
        for part in (slice(i * context.n, (i + 1) * context.n) for i in range(sets))
    ]
    return {name: _over_sets([one[name] for one in found]) for name in found[0]} | of_real_images


def default_n(context: Context) -> int:
    """50 000 samples (as many as there are training images), on a CPU 1000 (as many as there are test images)."""
    if jax.default_backend() == "cpu":
        return min(1000, len(context.dataset.x_test))
    return min(50_000, len(context.dataset.x_train))


def real(context: Context, extractor: Extractor, split: str, n: int | None = None) -> Reference:
    """The statistics (cached by content) of real images of a split, "train" or "test": of all, or of n at random."""
    x, labels = context.real(split, n)
    some = f" ({len(x)} at random)" if len(x) < len(context.real(split)[0]) else ""
    name = f"{context.dataset.name} {split}{some}"
    return make_reference(extractor, x, name, labels=labels, progress=context.stage(f"features of {name}"))


def floor(context: Context, extractor: Extractor, reference: Reference) -> dict[str, Any]:
    """What real images get that are not in the reference: n of the other split, or all, if it has fewer."""
    split = context.judging["reference"]
    other = {"train": "test", "test": "train"}[split]
    images_of_other = real(context, extractor, other, context.n)
    n = images_of_other.n
    labels = context.given_labels(images_of_other.labels)
    found = judge(Features(images_of_other.features, images_of_other.logits), reference, extractor, split, labels)
    origin = {"n": n, "real": images_of_other.name, "weights": None, "seed": None, "step": None}
    return {f"{name}_floor": entry | origin for name, entry in found.items()}


def sample_features(context: Context, extractor: Extractor, n: int, labels: Int[np.ndarray, " n"] | None = None) -> Features:
    """Features of the first n samples. Those already made are kept in `unfinished/`, so that an interrupted call goes on."""
    drawn = (context.seed, sorted(sampling(context).items()), n)
    protocol = (digest(context.variables), extractor.name, extractor.digest, *drawn)
    store = FeatureStore(context.out / "unfinished", repr(protocol))
    first = len(store)
    batches = draw_batches(
        context.model,
        context.variables,
        n - first,
        context.seed,
        context.batch_size,
        None if labels is None else labels[first:],
        context.options,
        first=first,
    )
    progress = context.stage(f"{n} samples and their {extractor.name} features")
    for x in batches:
        store.append(extract(extractor, x))
        progress(len(store), n)
    return store.pop()


def _rows(features: Features, part: slice) -> Features:
    return Features(features.features[part], None if features.logits is None else features.logits[part])


def _over_sets(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """One entry from those of several sample sets: the mean of their values, and the standard deviation between them."""
    if len(entries) == 1:
        return entries[0]
    values = [entry["value"] for entry in entries]
    own = {key: value for key, value in entries[0].items() if key not in ("std", "stderr", "per_class")}
    return own | {"value": float(np.mean(values)), "std": float(np.std(values, ddof=1)), "sets": len(values)}
