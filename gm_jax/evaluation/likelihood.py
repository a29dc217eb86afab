"""How probable a model finds the test images."""

import inspect
import math
from functools import partial
from typing import Any

from gm_jax.core import Likelihood
from gm_jax.errors import InputError
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.statistics import mean_and_stderr


def likelihood(context: Context) -> dict[str, Any]:
    """Every negative log-likelihood that the model offers, as mean and standard error over the first n test images.

    Two entries each: `NAME_nats` (nats per image) and `NAME_bits_per_dim` (the same / (height * width * channels * log 2)).
    "kind" says how to read them: "exact", "bound" (never below the exact value in expectation), "estimate", or
    "code" (the length of a latent code alone). An option that a likelihood was given (samples, terms, full ...) is part of its
    entry; one that none knows is an InputError.
    """
    known = {option for term in context.model.likelihoods for option in _options(term)}
    for option in context.likelihood_options:
        if option not in known:
            have = f"its likelihoods take {', '.join(sorted(known))}" if known else "its likelihoods take none"
            raise InputError(f"{context.model_name} has no likelihood option {option!r}; {have}")
    entries = {}
    for term in context.model.likelihoods:
        entries |= _entries(context, term)
    return entries


def _entries(context: Context, term: Likelihood) -> dict[str, Any]:
    x = context.dataset.x_test[: context.n]
    given = {option: value for option, value in context.likelihood_options.items() if option in _options(term)}
    nats = context.map(partial(term.fn, **given), len(x), x)
    measured = {"kind": term.kind, "n": len(x), "split": "test"} | ({"options": given} if given else {})
    return {
        f"{term.name}_nats": mean_and_stderr(nats) | measured,
        f"{term.name}_bits_per_dim": mean_and_stderr(nats / (math.prod(x.shape[1:]) * math.log(2))) | measured,
    }


def _options(term: Likelihood) -> list[str]:
    """What a likelihood takes behind (variables, keys, images, labels)."""
    return list(inspect.signature(term.fn).parameters)[4:]
