"""Metrics of generated images, with no trainer in sight.

    from gm_jax import metrics
    metrics.fid("samples/", "cifar10_train.npz")                      # with the 2015-12-05 Inception
    metrics.frechet_distance(samples, real, extractor=my_extractor)   # with any features

Images are uint8 arrays [n, H, W, C], folders of image files or .npz files (`metrics.inputs.read_images`). Real images, the
`reference`, are given likewise, as a `Reference`, or, for a Frechet distance, as an .npz file with `mu` and `sigma`; their
features are kept on disk (`metrics.reference`). The extractor is the Inception whose weights are found, unless one is given.
All raise InputError for what cannot be read or computed, in one line that says what to do.
"""

import functools
import os
from pathlib import Path

import numpy as np

from gm_jax.errors import InputError

# The modules come before the functions that share their names (kid, inception_score), or would later take their place.
from gm_jax.metrics import inception_score as _inception_score
from gm_jax.metrics import kid as _kid
from gm_jax.metrics import prdc as _prdc
from gm_jax.metrics.extractor import Extractor, Features, extract, from_callable
from gm_jax.metrics.frechet import distance_of_samples
from gm_jax.metrics.inputs import Source, read_images, read_npz
from gm_jax.metrics.judge import subset
from gm_jax.metrics.reference import Reference, load_statistics, make_reference

__all__ = [
    "Extractor",
    "Features",
    "Reference",
    "default_extractor",
    "density_coverage",
    "fid",
    "frechet_distance",
    "from_callable",
    "inception_score",
    "kid",
    "load_statistics",
    "make_reference",
    "precision_recall",
    "read_images",
]


def fid(images: Source, reference: Source | Reference, extractor: Extractor | None = None) -> float:
    """Frechet inception distance (Heusel et al. 2017), on the 2048 features of the 2015-12-05 Inception and no others.

    Smaller is better; it falls as n grows: state n and the reference with it (`fid50k_train`). Refuses other extractors.
    """
    extractor = extractor or default_extractor()
    if extractor.name != "inception2048":
        raise InputError(
            f"FID takes the features of inception2048, not of {extractor.name}; "
            "give the complete Inception weights, or call frechet_distance and name the extractor beside its value"
        )
    return frechet_distance(images, reference, extractor)


def frechet_distance(images: Source, reference: Source | Reference, extractor: Extractor | None = None) -> float:
    """The same distance on the features of any extractor, in their squared units."""
    extractor = extractor or default_extractor()
    samples = _features(images, extractor).features
    return distance_of_samples(samples, _reference(reference, extractor, "distance").statistics)


def kid(
    images: Source,
    reference: Source | Reference,
    extractor: Extractor | None = None,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> tuple[float, float | None]:
    """Kernel distance (`metrics.kid.estimate`): mean and standard deviation over subsets. Smaller is better, 0 ideal.

    The standard deviation is None where a subset is all of a set: give more than `subset_size` images of either kind.
    """
    real, fake = _both(images, reference, extractor)
    return _kid.kernel_distance(real, fake, subsets, subset_size, seed)


def inception_score(images: Source, extractor: Extractor | None = None, splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """Inception score (`metrics.inception_score.inception_score`): mean and standard deviation over splits. Larger is better.

    The images are shuffled first, always in the same way for a `seed`, since such that are sorted by class would score too low.
    Refuses an extractor without logits, such as Inception with partial weights.
    """
    extractor = extractor or default_extractor()
    logits = _features(images, extractor).logits
    if logits is None:
        raise InputError(f"an inception score needs logits, which {extractor.name} does not give; take a whole classifier")
    return _inception_score.inception_score(logits, splits, seed)


def precision_recall(
    images: Source, reference: Source | Reference, extractor: Extractor | None = None, k: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (`metrics.prdc`), both in [0, 1], of equal numbers of samples and real images.

    The larger set is thinned at random to the size of the smaller: the values depend on the numbers, and compare at equal ones.
    """
    return _prdc.precision_recall(*_equally_many(*_both(images, reference, extractor)), k)


def density_coverage(
    images: Source, reference: Source | Reference, extractor: Extractor | None = None, k: int = 5
) -> tuple[float, float]:
    """Density (about 1 is ideal) and coverage (in [0, 1]) (`metrics.prdc`), of equal numbers like `precision_recall`."""
    return _prdc.density_coverage(*_equally_many(*_both(images, reference, extractor)), k)


def default_extractor() -> Extractor:
    """The 2015-12-05 Inception at the largest tap that the weights reach which `metrics.inception.find_weights` finds."""
    from gm_jax.metrics import inception  # a network takes a while to import

    weights = inception.find_weights()
    if weights is None:
        raise InputError(
            "no Inception weights found; set GM_JAX_INCEPTION to their path, call gm_jax.metrics.inception.download_weights(), "
            "or give an extractor"
        )
    return _inception(weights)


@functools.lru_cache(maxsize=2)
def _inception(weights: Path) -> Extractor:
    """One extractor per file, so that it is read and compiled once."""
    from gm_jax.metrics import inception

    return inception.extractor(weights)


def _features(images: Source, extractor: Extractor) -> Features:
    return extract(extractor, read_images(images)[0])


def _both(images: Source, reference: Source | Reference, extractor: Extractor | None) -> tuple[np.ndarray, np.ndarray]:
    """Features of the real images and of the samples."""
    extractor = extractor or default_extractor()
    real = _reference(reference, extractor, "features").features
    return real, _features(images, extractor).features


def _equally_many(real: np.ndarray, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = min(len(real), len(fake))
    return subset(real, n), subset(fake, n)


def _reference(reference: Source | Reference, extractor: Extractor, needed: str) -> Reference:
    if not isinstance(reference, Reference):
        reference = _read_reference(reference, extractor)
    if reference.extractor not in (None, (extractor.name, extractor.digest)):
        hint = "" if extractor.lasting else " (without a digest, each call of from_callable makes another one)"
        raise InputError(
            f"the reference {reference.name} was not made by this {extractor.name}{hint}; take one extractor for both"
        )
    if needed == "features" and reference.features is None:
        raise InputError(f"{reference.name} holds statistics, which are good for distances only; give the reference images")
    return reference


def _read_reference(source: Source, extractor: Extractor) -> Reference:
    path = Path(os.path.expanduser(source)) if isinstance(source, str | Path) else None
    if path is not None and os.path.isfile(path) and read_npz(path, "mu"):
        return load_statistics(path)
    images, labels = read_images(source)
    name = str(source) if isinstance(source, str | Path) else "array"
    return make_reference(extractor, images, name, labels)
