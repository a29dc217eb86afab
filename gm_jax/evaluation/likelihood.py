"""How probable a model finds the test data."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from gm_jax.core import Likelihood
from gm_jax.data.toys import TOYS
from gm_jax.errors import InputError
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.results import mean_and_stderr
from gm_jax.settings import convert, fields_of

OF_IMAGES = ("exact", "bound", "estimate")  # kinds whose nats are of the image, and so can be had in bits/dim


def likelihood(context: Context) -> dict[str, Any]:
    """Every negative log-likelihood that the model offers, as mean and standard error over n test examples.

    `NAME_nats` (nats per example) and, for images and for likelihoods of images, `NAME_bits_per_dim` (the same / (height *
    width * channels * log 2)). "kind" says how to read them: see `core.Likelihood`. With the option given_labels a conditional
    model is asked for p(x|y), under `NAME_given_label_...`; without it for the marginal p(x). Beside the nats of points stands
    what the exact density gives, where that is known (`_floor`).

    An option that a likelihood was given (samples, terms, full ...) is part of its entry; one that none knows is an InputError.
    The option `names` chooses among the likelihoods; without it slow ones are left out, where there are others.
    """
    options = dict(context.likelihood_options)
    given_labels = options.pop("given_labels", False)
    if given_labels and context.model.num_classes is None:
        raise InputError(f"eval.likelihood.given_labels: {context.model_name} is unconditional; leave it out")
    terms = chosen(context, options.pop("names", ()))
    known = {option for term in terms for option in fields_of(term.fn)}
    for option in options:
        if option not in known:
            have = f"its likelihoods take {', '.join(sorted(known))}" if known else "its likelihoods take none"
            raise InputError(f"{context.model_name} has no likelihood option {option!r}; {have}")
    entries = {}
    for term in terms:
        entries |= _entries(context, term, options, given_labels)
    return entries


def chosen(context: Context, names: str | Sequence[str]) -> list[Likelihood]:
    """The model's likelihoods of these names, one or several; of none the quick ones, or all if there are no quick ones."""
    offered = {term.name: term for term in context.model.likelihoods}
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in offered:
            raise InputError(f"{context.model_name} has no likelihood {name!r}; it has {', '.join(offered)}")
    return [offered[name] for name in names] or [term for term in offered.values() if not term.slow] or [*offered.values()]


def _entries(context: Context, term: Likelihood, options: Mapping[str, Any], given_labels: bool) -> dict[str, Any]:
    x, labels = context.real("test", context.n)
    known = fields_of(term.fn)
    given = {option: convert(value, known[option].hint, option) for option, value in options.items() if option in known}
    nats = context.map(partial(term.fn, **given), len(x), x, labels if given_labels else None)
    measured = {"kind": term.kind, "n": len(x), "split": "test"} | ({"options": given} if given else {})
    name = f"{term.name}_given_label" if given_labels else term.name
    found = {f"{name}_nats": mean_and_stderr(nats) | measured}
    if not context.points and term.kind in OF_IMAGES:
        found[f"{name}_bits_per_dim"] = mean_and_stderr(nats / (math.prod(x.shape[1:]) * math.log(2))) | measured
    if context.points and context.dataset.name in TOYS and not given_labels:
        exact = -TOYS[context.dataset.name].log_density(x)
        found[f"{name}_nats_floor"] = mean_and_stderr(exact) | measured | {"kind": "exact", "weights": None, "step": None}
    return found
