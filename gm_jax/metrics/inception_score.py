"""Inception score: Salimans et al. 2016, section 4."""

import numpy as np
from jaxtyping import Float

from gm_jax.errors import InputError
from gm_jax.metrics.checks import at_least, table


def inception_score(logits: Float[np.ndarray, "n classes"], splits: int = 10, seed: int = 0) -> tuple[float, float]:
    """exp(E_x KL(p(y|x) || p(y))), between 1 and the number of classes: mean and standard deviation over splits.

    The published scores take the 2015-12-05 Inception's logits without their bias, and 10 splits of images in the order in
    which they were drawn. Each split has its own p(y), so that images sorted by class would score too low: here they are
    shuffled first, always in the same way for a `seed`. Raises InputError for fewer images than splits, and for logits that
    are not finite.
    """
    logits = table(logits, "logits")
    at_least(1, splits=splits)
    at_least(0, seed=seed)
    n = len(logits)
    if n < splits:
        raise InputError(f"an inception score over {splits} splits needs at least {splits} images, not {n}; add some")
    logits = logits[np.random.default_rng(seed).permutation(n)]
    scores = [_score(np.asarray(logits[i * n // splits : (i + 1) * n // splits], np.float64)) for i in range(splits)]
    return float(np.mean(scores)), float(np.std(scores))


def _score(logits: np.ndarray) -> float:
    log_p = logits - logits.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    p = np.exp(log_p)
    marginal = p.mean(0)
    present = marginal > 0  # a probability that underflows in every image adds nothing
    return float(np.exp((p[:, present] * (log_p[:, present] - np.log(marginal[present]))).sum(1).mean()))
