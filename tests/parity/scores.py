"""Metrics of features against torch-fidelity, prdc and pytorch-fid, in float64."""

import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from gm_jax.metrics import statistics
from gm_jax.metrics.frechet import distance_of_samples, frechet_distance
from gm_jax.metrics.inception_score import inception_score
from gm_jax.metrics.kid import estimate, squared_mmd
from gm_jax.metrics.prdc import density_coverage, precision_recall
from tests.parity.comparison import Comparison, Values
from tests.parity.recipes import features, normal

SUBSETS, SPLITS, SEED = 10, 5, 0
NEIGHBOURS = 3


class Size(NamedTuple):
    """Of a comparison: images of either kind, features of each; classes are 10."""

    n: int = 500
    dim: int = 32


def _sets(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Real and generated: the latter are shifted, and vary less."""
    return features("real", size.n, size.dim), 0.9 * features("generated", size.n, size.dim, shift=0.2)


def _kid(size: Size) -> Comparison:
    real, fake = _sets(size)

    def theirs() -> Values:
        from torch_fidelity.metric_kid import kernel_mmd

        return {"mmd^2": kernel_mmd(real, fake)}

    ours = lambda: {"mmd^2": squared_mmd(real, fake)}  # noqa: E731
    return _compare("kernel distance (KID)", "torch-fidelity", "kernel_mmd", size, ours, theirs)


def _kid_of_subsets(size: Size) -> Comparison:
    real, fake = _sets(size)

    def ours() -> Values:
        found = estimate(real, fake, SUBSETS, size.n // 2, SEED)
        return {"value": found.value, "std": found.std}

    def theirs() -> Values:
        from torch_fidelity.metric_kid import kernel_mmd

        draw = np.random.default_rng(SEED)
        subset = lambda x: x[np.sort(draw.choice(len(x), size.n // 2, replace=False))]  # noqa: E731
        values = [kernel_mmd(subset(real), subset(fake)) for _ in range(SUBSETS)]
        return {"value": np.mean(values), "std": np.std(values)}

    what = f"KID, mean and std over {SUBSETS} subsets, drawn alike"
    return _compare(what, "torch-fidelity", "kernel_mmd", size, ours, theirs)


def _inception_score(size: Size) -> Comparison:
    logits = 2 * normal("logits", (size.n, 10))

    def theirs() -> Values:
        import torch
        from torch_fidelity.metric_isc import isc_features_to_metric

        shuffled = torch.from_numpy(logits[np.random.default_rng(SEED).permutation(len(logits))])
        found = isc_features_to_metric(shuffled, SPLITS, shuffle=False)
        return {"mean": found["inception_score_mean"], "std": found["inception_score_std"]}

    ours = lambda: dict(zip(("mean", "std"), inception_score(logits, SPLITS, SEED), strict=True))  # noqa: E731
    what, function = f"inception score, {SPLITS} splits, shuffled alike", "isc_features_to_metric"
    return _compare(what, "torch-fidelity", function, size, ours, theirs, f"{size.n} logits of 10 classes; float64")


def _our_precision_recall(size: Size) -> Values:
    return dict(zip(("precision", "recall"), precision_recall(*_sets(size), k=NEIGHBOURS), strict=True))


def _precision_recall(size: Size) -> Comparison:
    def theirs() -> Values:
        import torch
        from torch_fidelity.metric_prc import prc_features_to_metric

        real, fake = map(torch.from_numpy, _sets(size))
        found = prc_features_to_metric(fake, real, prc_neighborhood=NEIGHBOURS, verbose=False)
        return {name: found[name] for name in ("precision", "recall")}

    what, ours = f"precision and recall, k = {NEIGHBOURS}", partial(_our_precision_recall, size)
    return _compare(what, "torch-fidelity", "prc_features_to_metric", size, ours, theirs, tolerance=1e-6)  # float32 means


def _density_coverage(size: Size) -> Comparison:
    def ours() -> Values:
        found = dict(zip(("density", "coverage"), density_coverage(*_sets(size), k=NEIGHBOURS), strict=True))
        return _our_precision_recall(size) | found

    def theirs() -> Values:
        from prdc import compute_prdc

        with contextlib.redirect_stdout(io.StringIO()):  # it prints
            return compute_prdc(*_sets(size), nearest_k=NEIGHBOURS)

    what = f"precision, recall, density and coverage, k = {NEIGHBOURS}"
    return _compare(what, "prdc", "compute_prdc", size, ours, theirs)


def _frechet(package: str, function: str, size: Size) -> Comparison:
    sets = dict(zip(("real", "generated"), _sets(size), strict=True))

    def ours() -> Values:
        real, fake = (statistics.of(x) for x in sets.values())
        return {"distance": frechet_distance(real, fake), "of samples": distance_of_samples(sets["generated"], real)}

    def theirs() -> Values:
        if package == "pytorch-fid":
            from pytorch_fid.fid_score import calculate_frechet_distance

            moments = [part for x in sets.values() for part in (x.mean(0), np.cov(x, rowvar=False))]
            found = calculate_frechet_distance(*moments)
        else:
            import torch
            from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

            both = [fid_features_to_statistics(torch.from_numpy(x)) for x in sets.values()]
            found = fid_statistics_to_metric(*both, verbose=False)["frechet_inception_distance"]
        return {"distance": found, "of samples": found}

    return _compare("Frechet distance, with its statistics", package, function, size, ours, theirs)


def _compare(
    what: str,
    package: str,
    function: str,
    size: Size,
    ours: Callable[[], Values],
    theirs: Callable[[], Values],
    inputs: str = "",
    tolerance: float = 1e-10,
) -> Comparison:
    inputs = inputs or f"two sets of {size.n} points in {size.dim} dimensions; float64"
    return Comparison(what, package, function, inputs, tolerance, ours, theirs)


COMPARISONS: dict[str, Callable[[Size], Comparison]] = {
    "kid": _kid,
    "kid of subsets": _kid_of_subsets,
    "inception score": _inception_score,
    "precision, recall": _precision_recall,
    "prdc": _density_coverage,
    "frechet, torch-fidelity": partial(_frechet, "torch-fidelity", "fid_statistics_to_metric"),
    "frechet, pytorch-fid": partial(_frechet, "pytorch-fid", "calculate_frechet_distance"),
}
