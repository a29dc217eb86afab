"""From two sets of Inception features to their Frechet distance: here and in pytorch-fid.

    python -m benchmarks.fid [--n=10000] [--features=2048] [--rounds=3]

Needs pytorch-fid (`pip install pytorch-fid`), of which it calls the distance and repeats the statistics (`np.mean`, `np.cov` of
float64). The features are synthetic, of a decaying spectrum. Checks that both distances are equal to 1e-6. pytorch-fid 0.3.0
calls SciPy's `sqrtm(disp=False)`, which SciPy 1.18 no longer knows: it is given the function under its old signature, without
the error estimate that it does not use. Its network is not needed, so torchvision is not loaded.
"""

import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import scipy.linalg

from benchmarks.measure import OURS, compare, main
from gm_jax.metrics.frechet import distance_of_samples
from gm_jax.metrics.statistics import of

SPECTRUM = 0.75  # standard deviations fall as 1 / k^SPECTRUM


def rows(options):
    samples, real = synthetic_features(options.n, options.features)
    as_float64 = [features.astype(np.float64) for features in (samples, real)]  # pytorch-fid collects them so
    distance = pytorch_fid().calculate_frechet_distance

    def theirs():
        (mean_a, cov_a), (mean_b, cov_b) = ((np.mean(x, axis=0), np.cov(x, rowvar=False)) for x in as_float64)
        return distance(mean_a, cov_a, mean_b, cov_b)

    variants = {OURS: lambda: distance_of_samples(samples, of(real)), "pytorch-fid": theirs}
    ours, expected = (run() for run in variants.values())
    np.testing.assert_allclose(ours, expected, rtol=1e-6)
    name = f"FID after features, {options.n} x {options.features}"
    yield compare(name, "distance", variants, rounds=options.rounds)


def synthetic_features(n, dim):
    """Samples and real features, float32 [n, dim] each: Gaussians whose means and axes differ a little."""
    rng = np.random.default_rng(0)
    scales = np.arange(1, dim + 1) ** -SPECTRUM
    axes = rng.standard_normal((dim, dim)) / np.sqrt(dim)
    other = axes + 0.1 * rng.standard_normal((dim, dim)) / np.sqrt(dim)
    fake, real = (((rng.standard_normal((n, dim)) * scales) @ basis).astype(np.float32) for basis in (other, axes))
    return fake + np.float32(0.01), real


def pytorch_fid():
    """Its module of the distance, without the network's."""
    sys.modules.update(dict.fromkeys(("torchvision", "torchvision.transforms", "pytorch_fid.inception"), MagicMock()))
    try:
        from pytorch_fid import fid_score
    except ImportError:
        sys.exit("this benchmark compares with pytorch-fid, which is not installed: pip install pytorch-fid")
    fid_score.linalg = SimpleNamespace(sqrtm=sqrtm)
    return fid_score


def sqrtm(matrix, disp=True):
    root = scipy.linalg.sqrtm(matrix)
    return root if disp else (root, None)


if __name__ == "__main__":
    main(rows, __doc__, rounds=3, n=10_000, features=2048)
