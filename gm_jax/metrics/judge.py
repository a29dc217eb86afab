"""All metrics of a set of samples at once, each under the name of its protocol and with its provenance."""

import re
from typing import Any

import numpy as np
from jaxtyping import Int

from gm_jax.errors import InputError
from gm_jax.metrics import statistics
from gm_jax.metrics.checks import at_least, table
from gm_jax.metrics.extractor import Extractor, Features
from gm_jax.metrics.frechet import distance_of_samples
from gm_jax.metrics.inception_score import inception_score
from gm_jax.metrics.kid import estimate
from gm_jax.metrics.prdc import density_coverage, precision_recall
from gm_jax.metrics.reference import Reference

SPLITS = 10  # of the inception score
SUBSETS, SUBSET_SIZE = 100, 1000  # of the KID
NEIGHBOURS, NEIGHBOURS_OF_COVERAGE = 3, 5  # k of precision and recall, and of density and coverage
MOST_POINTS = 10_000  # that precision, recall, density and coverage take of either set

Entry = dict[str, Any]


def judge(
    features: Features,
    reference: Reference,
    extractor: Extractor,
    split: str,
    labels: Int[np.ndarray, " n"] | None = None,
) -> dict[str, Entry]:
    """Every metric that can be computed from what is there: metric name -> entry.

    The Frechet distance always; from the reference's features KID, precision, recall, density and coverage (as many images of
    either set as the smaller has, at most 10 000, chosen at random but always the same); from logits the inception score; from
    labels of both the mean of the Frechet distances within the classes (`intra_fid`: Miyato and Koyama 2018), if every class
    has two images. Few images per class make that large: it says how many, and compares only with its like. From logits and
    labels the share of images that the classifier takes for what they are labelled (`class_accuracy`).

    An entry has "value" (float), "std" where known (over splits or subsets; not of a KID whose subsets are all of a set), "n",
    "reference" {"name", "n", "digest"}, "extractor" {"name", "digest"} and its parameters; "reference_n" where not all of the
    reference was used. "subsets" of the KID counts those that are different; "order" of the inception score says that images
    were shuffled before they were split. `split` ends the names of all that depend on the reference: "train", "test".

    Raises:
      InputError: fewer than two samples, features or logits that are not finite, other than one label per sample, or a
        reference made by another extractor.
    """
    x = table(features.features)
    for what, rows in (("logits", features.logits), ("labels", labels)):
        if rows is not None and len(rows) != len(x):
            raise InputError(f"there are {len(rows)} {what} for {len(x)} images; give one for each")
    if features.logits is not None:
        table(features.logits, "logits")
    if reference.extractor not in (None, (extractor.name, extractor.digest)):
        raise InputError(
            f"the reference {reference.name} was made by the extractor {reference.extractor[0]} (or other weights of it), "
            f"the features by {extractor.name}; take one for both"
        )
    found = {"fid": {"value": distance_of_samples(x, reference.statistics)}}
    if reference.features is not None:
        found |= _kid(x, reference.features) | _prdc(x, reference.features)
    if features.logits is not None and len(x) >= SPLITS:
        value, std = inception_score(features.logits, SPLITS)
        found["is"] = {"value": value, "std": std, "splits": SPLITS, "order": "seeded"}
    if labels is not None and features.logits is not None:
        hits = features.logits.argmax(1) == labels
        found["class_accuracy"] = {"value": float(hits.mean()), "stderr": float(hits.std() / np.sqrt(len(hits)))}
    if labels is not None and reference.labels is not None and reference.features is not None:
        found |= _intra(x, np.asarray(labels), reference)
    return dict(_with_provenance(metric, entry, len(x), reference, extractor, split) for metric, entry in found.items())


def metric_name(metric: str, extractor_name: str, n: int, split: str | None = None) -> str:
    """The name that says the protocol: `fid50k_train`, `fid768_1k_test`, `frechet_digits_classifier_296_train`.

    Without further words it is the 2015 Inception's at 2048 features; other taps follow the metric's name; on other extractors
    the Frechet distance is not called FID.
    """
    size = f"{n // 1000}k" if n and n % 1000 == 0 else str(n)
    tap = re.fullmatch(r"inception(\d+)", extractor_name)
    if tap is None:
        start = f"{metric.replace('fid', 'frechet')}_{extractor_name}_"
    else:
        start = metric if tap[1] == "2048" else f"{metric}{tap[1]}_"
    return f"{start}{size}" + (f"_{split}" if split else "")


def subset(x: np.ndarray, n: int) -> np.ndarray:
    """n rows of x, in order, chosen at random but always the same; all of them if there are no more.

    Not the first ones: folders of images are often sorted by class. Raises InputError for n below 1.
    """
    at_least(1, n=n)
    return x if n >= len(x) else x[np.sort(np.random.default_rng(0).choice(len(x), n, replace=False))]


def _kid(x: np.ndarray, real: np.ndarray) -> dict[str, Entry]:
    value, std, different, size = estimate(real, x, SUBSETS, SUBSET_SIZE)
    spread = {} if std is None else {"std": std}
    return {"kid": {"value": value} | spread | {"subsets": different, "subset_size": size}}


def _prdc(x: np.ndarray, real: np.ndarray) -> dict[str, Entry]:
    n = min(len(x), len(real), MOST_POINTS)
    real, fake, found = subset(real, n), subset(x, n), {}
    for names, fn, k in (
        (("precision", "recall"), precision_recall, NEIGHBOURS),
        (("density", "coverage"), density_coverage, NEIGHBOURS_OF_COVERAGE),
    ):
        if n > k:
            protocol = {"n": n, "reference_n": n, "k": k}
            found |= {name: {"value": value} | protocol for name, value in zip(names, fn(real, fake, k), strict=True)}
    return found


def _intra(x: np.ndarray, labels: np.ndarray, reference: Reference) -> dict[str, Entry]:
    real_labels = np.asarray(reference.labels)
    unknown = np.setdiff1d(labels, real_labels)
    if len(unknown):
        raise InputError(f"samples are labelled {unknown[0]}, but no image of {reference.name} is; check the labels")
    classes, counts = np.unique(labels, return_counts=True)
    if set(classes) != set(real_labels) or counts.min() < 2 or np.unique(real_labels, return_counts=True)[1].min() < 2:
        return {}
    per_class = []
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        real = statistics.of(reference.features[real_labels == label])
        value = distance_of_samples(x[labels == label], real)
        per_class.append({"class": label, "value": value, "n": count, "reference_n": real.n})
    return {"intra_fid": {"value": float(np.mean([entry["value"] for entry in per_class])), "per_class": per_class}}


def _with_provenance(
    metric: str, entry: Entry, n: int, reference: Reference, extractor: Extractor, split: str
) -> tuple[str, Entry]:
    used = entry.get("n", n)
    entry = entry | {"n": used, "extractor": {"name": extractor.name, "digest": extractor.digest}}
    if metric in ("is", "class_accuracy"):
        return metric_name(metric, extractor.name, used), entry
    origin = {"name": reference.name, "n": reference.n, "digest": reference.digest}
    return metric_name(metric, extractor.name, used, split), entry | {"reference": origin}
