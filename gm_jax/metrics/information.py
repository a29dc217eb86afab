"""What a latent z says of an image x: from posteriors q(z|x_n) of the n images of a split. All in nats and float64.

  Kingma & Welling 2013, "Auto-encoding variational Bayes"                      appendix B: the KL to the prior
  Hoffman & Johnson 2016, "ELBO surgery"                                        section 2: index-code mutual information
  Burda et al. 2015, "Importance weighted autoencoders"                         section 5.2: active units

With the aggregate posterior q(z) = 1/n sum_n q(z|x_n) and the prior p(z) = N(0, I),

  mean_n KL(q(z|x_n) || p(z)) = I(n; z) + KL(q(z) || p(z)),     0 <= I(n; z) <= log n:

the rate is the sum of index-code mutual information and marginal KL, and so bounds both. The index-code information is what z
says of *which* of the n images was encoded. Well below log n it is what z says of x; an encoder that tells all images apart
reaches log n, which then is a property of n and not of the encoder.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from gm_jax.errors import InputError
from gm_jax.metrics.checks import at_least
from gm_jax.system.batching import Progress

ROWS = 5000  # of 50 000 images: a minute on two cores for 128 dimensions
MINIBATCH = 256  # so customary that published figures often stand at its ceiling, log 256 = 5.545
RESOLUTION = 1e-5  # float32 means are not much finer
BLOCK = 64  # rows of a matrix of log densities held at a time
ACTIVE = 0.01  # variance of a unit's posterior mean over the images above which it counts as active (Burda et al. 2015)


class Information(NamedTuple):
    """An estimate of mutual information, in nats."""

    value: float
    stderr: float | None  # None: nothing was drawn, or there is only one value to judge by
    ceiling: float  # no estimate of its kind can exceed it


def index_code_information(
    mean: Float[np.ndarray, "n latent"],
    logvar: Float[np.ndarray, "n latent"],
    rows: int = ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Information:
    """I(n; z) = mean_n [log q(z_n|x_n) - log 1/n sum_m q(z_n|x_m)], one z_n ~ q(z|x_n), for q = N(mean, diag(exp(logvar))).

    The outer mean is over `rows` images at random (all, if there are fewer), the inner one always over all n.
    `progress(done, rows)` is called after every block. Raises InputError for posteriors that are not finite, and for `rows`
    below 1.
    """
    mean, logvar = _finite(mean, logvar)
    at_least(1, rows=rows)
    rng, n = np.random.default_rng(seed), len(mean)
    chosen = rng.choice(n, min(rows, n), replace=False)
    ratios = _log_ratios(mean, logvar, chosen, rng.standard_normal((len(chosen), mean.shape[1])), progress)
    return Information(float(ratios.mean()), _stderr(ratios), float(np.log(n)))


def minibatch_information(
    mean: Float[np.ndarray, "n latent"], logvar: Float[np.ndarray, "n latent"], batch: int = MINIBATCH, seed: int = 0
) -> Information:
    """The same with the inner mean over a batch only, its own image included: capped at log `batch`, and too low near that.

    The mean over disjoint batches at random; what does not fill one is left out. With n < `batch` there is one batch of n.
    Raises InputError for posteriors that are not finite, and for `batch` below 1.
    """
    mean, logvar = _finite(mean, logvar)
    rng = np.random.default_rng(seed)
    batches = _minibatches(rng, len(mean), batch)
    every = np.arange(batches.shape[1])
    noise = (rng.standard_normal((len(every), mean.shape[1])) for _ in batches)
    of_batches = [_log_ratios(mean[i], logvar[i], every, eps).mean() for i, eps in zip(batches, noise, strict=True)]
    return Information(float(np.mean(of_batches)), _stderr(np.array(of_batches)), float(np.log(len(every))))


def kl_to_prior(mean: Float[np.ndarray, "n latent"], logvar: Float[np.ndarray, "n latent"]) -> Float64[np.ndarray, "n latent"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of every image and dimension (Kingma & Welling 2013, appendix B).

    Its sum over dimensions has the rate as its mean over images. Raises InputError for posteriors that are not finite.
    """
    mean, logvar = _finite(mean, logvar)
    return 0.5 * (mean**2 + np.expm1(logvar) - logvar)


def active_units(mean: Float[np.ndarray, "n latent"]) -> int:
    """The number of dimensions whose posterior mean has a variance over the images above 0.01 (Burda et al. 2015, 5.2).

    Raises InputError for means that are not finite.
    """
    mean, _ = _finite(mean, mean)
    return int((mean.var(0) > ACTIVE).sum())


def code_information(indices: Int[np.ndarray, "n *grid"]) -> Information:
    """I(n; z) of a deterministic discrete code: the entropy of whole code maps, log n where no two images share theirs.

    Raises InputError without images, as all functions of codes do.
    """
    _some(indices)
    ceiling = float(np.log(len(indices)))
    return Information(min(_entropy(_map_numbers(indices)), ceiling), None, ceiling)  # a rounding error may lie between


def minibatch_code_information(indices: Int[np.ndarray, "n *grid"], batch: int = MINIBATCH, seed: int = 0) -> Information:
    """The same within batches, as `minibatch_information` has them: capped at log `batch`."""
    _some(indices)
    numbers = _map_numbers(indices)
    batches = _minibatches(np.random.default_rng(seed), len(numbers), batch)
    entropies = np.array([_entropy(numbers[i]) for i in batches])
    return Information(float(entropies.mean()), _stderr(entropies), float(np.log(batches.shape[1])))


def code_usage(indices: Int[np.ndarray, "n *grid"]) -> tuple[float, int]:
    """Perplexity of the codes over all positions (exp of the entropy of their frequencies), and how many are used at all."""
    _some(indices)
    return float(np.exp(_entropy(indices))), len(np.unique(indices))


def _log_ratios(
    mean: np.ndarray, logvar: np.ndarray, rows: np.ndarray, eps: np.ndarray, progress: Progress | None = None
) -> np.ndarray:
    """log q(z_r|x_r) - log 1/n sum_m q(z_r|x_m) of z_r = mean_r + exp(logvar_r / 2) eps_r, for all rows r.

    |z - mean_m|^2 / variance_m as a product of matrices, in float64 and around the means' centre. A standard deviation below
    1e-5 of the spread of its dimension's means counts as that: beyond, the squares would cancel.
    """
    n, mean = len(mean), mean - mean.mean(0)
    logvar = np.maximum(logvar, np.log(RESOLUTION**2 * mean.var(0) + np.finfo(np.float64).tiny))
    precision = np.exp(-logvar)
    components = np.concatenate([-0.5 * precision, mean * precision], axis=1).T
    constants = -0.5 * (mean**2 * precision + logvar).sum(1)  # the powers of 2 pi are in all densities alike
    z = mean[rows] + np.exp(0.5 * logvar[rows]) * eps
    own = -0.5 * (eps**2 + logvar[rows]).sum(1)
    ratios = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        block = slice(start, min(start + BLOCK, len(rows)))
        log_density = np.concatenate([z[block] ** 2, z[block]], axis=1) @ components
        log_density += constants
        log_density[np.arange(len(log_density)), rows[block]] = own[block]  # the very same: no ratio exceeds log n
        log_density -= own[block, None]
        ratios[block] = np.log(n) - _logsumexp(log_density)
        if progress is not None:
            progress(block.stop, len(rows))
    return ratios


def _logsumexp(rows: np.ndarray) -> np.ndarray:
    """Of every row, in place: temporaries of this size would take longer than the sums."""
    top = rows.max(1)
    rows -= top[:, None]
    return top + np.log(np.exp(rows, out=rows).sum(1))


def _minibatches(rng: np.random.Generator, n: int, batch: int) -> np.ndarray:
    """Indices of disjoint batches, [batches, batch]."""
    at_least(1, batch=batch)
    size = min(batch, n)
    return rng.permutation(n)[: n // size * size].reshape(-1, size)


def _map_numbers(indices: np.ndarray) -> np.ndarray:
    """A number for every image, the same for equal code maps."""
    return np.unique(np.asarray(indices).reshape(len(indices), -1), axis=0, return_inverse=True)[1].reshape(-1)


def _entropy(values: np.ndarray) -> float:
    counts = np.unique(values, return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum()) + 0.0  # not -0.0


def _stderr(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None


def _some(rows: np.ndarray) -> None:
    if not len(rows):
        raise InputError("there are no images to judge the latent by; give at least one")


def _finite(mean: np.ndarray, logvar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    _some(mean)
    mean, logvar = np.asarray(mean, np.float64), np.asarray(logvar, np.float64)
    bad = ~(np.isfinite(mean) & np.isfinite(logvar)).all(1)
    if bad.any():
        raise InputError(
            f"the posteriors of {bad.sum()} of {len(bad)} images hold NaN or infinite values; "
            "try the other weights (ema or raw) or an earlier checkpoint"
        )
    return mean, logvar
