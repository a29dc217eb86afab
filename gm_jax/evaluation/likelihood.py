"""How probable a model finds the test images."""

import math
from typing import Any

from gm_jax.core import Likelihood
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.statistics import mean_and_stderr


def likelihood(context: Context) -> dict[str, Any]:
    """Every negative log-likelihood that the model offers, as mean and standard error over the first n test images.

    Two entries each: `NAME_nats` (nats per image) and `NAME_bits_per_dim` (the same / (height * width * channels * log 2)).
    "kind" says how to read them: "exact", "bound" (never below the exact value in expectation) or "estimate".
    """
    entries = {}
    for term in context.model.likelihoods:
        entries |= _entries(context, term)
    return entries


def _entries(context: Context, term: Likelihood) -> dict[str, Any]:
    x = context.dataset.x_test[: context.n]
    nats = context.map(term.fn, len(x), x)
    measured = {"kind": term.kind, "n": len(x), "split": "test"}
    return {
        f"{term.name}_nats": mean_and_stderr(nats) | measured,
        f"{term.name}_bits_per_dim": mean_and_stderr(nats / (math.prod(x.shape[1:]) * math.log(2))) | measured,
    }
