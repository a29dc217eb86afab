"""How much the latent says of the images, how much it may cost, and how much of it is in use."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.core import ByteImages, Codes, DiagonalGaussian, Likelihood
from gm_jax.errors import InputError
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.pictures import latent_is_continuous
from gm_jax.evaluation.results import mean_and_stderr
from gm_jax.images import to_float
from gm_jax.metrics import information as measures
from gm_jax.metrics.information import Information

INDEX_CODE = {"kind": "index-code", "unit": "nats"}
INFINITE = "no posterior: infinite if the encoder is deterministic, not reported"


def latent(context: Context) -> dict[str, Any]:
    """Mutual information of image and latent, and its kin (`metrics.information`), over n training images.

    `mutual_information`: the index-code one over all n, its outer mean over at most 5000 of them (`rows`), with its ceiling,
    log n. `mutual_information_minibatch`: within batches of 256 (`batch`). `rate`: mean KL(q(z|x) || p(z)), which
    for codes is their negative log-likelihood under the prior. `marginal_kl`: rate - mutual information. A Gaussian latent also
    has `active_units` ("of" so many), discrete codes have `code_perplexity` and `codes_used`.

    A model with an encoder, but no posterior, has a note in place of its information, which is infinite if it encodes
    deterministically.
    Raises InputError for n beyond the training split and for posteriors that are not finite.
    """
    n = context.n
    if n > len(context.dataset.x_train):
        raise InputError(f"task latent: the training split has {len(context.dataset.x_train)} images; n={n} asked")
    x, labels = context.real("train", n)
    if context.model.posterior is None:
        none = {"value": None, "note": INFINITE, "ceiling": math.log(n), "rows": _rows(x)}
        measured = {"mutual_information": none | INDEX_CODE}
    else:
        posterior = _posterior(context, x, context.given_labels(labels))
        measured = MEASURES[type(posterior)](context, x, posterior)
    return {name: entry | {"split": "train"} for name, entry in measured.items()}


def has_posterior(context: Context) -> bool:
    """Has the model a posterior, be it the point that a deterministic encoder gives?"""
    return context.model.posterior is not None or (context.model.encode is not None and latent_is_continuous(context))


def _posterior(context: Context, x: ByteImages, labels: np.ndarray | None) -> DiagonalGaussian | Codes:
    def encode(variables, keys, images, labels):
        found = context.model.posterior(variables, images if context.points else to_float(images), labels)
        # every result has the batch as leading axis, the number of codes too
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(images), *jnp.shape(leaf)[1:])), found)

    return context.map(encode, len(x), x, labels)


def _gaussian(context: Context, x: ByteImages, posterior: DiagonalGaussian) -> dict[str, Any]:
    progress = context.stage(f"mutual information of {len(x)} images and their latents")
    information = measures.index_code_information(*posterior, _rows(x), context.seed, progress)
    minibatch = measures.minibatch_information(*posterior, seed=context.seed)
    of_prior = context.model.prior_kl
    kl = measures.kl_to_prior(*posterior) if of_prior is None else np.asarray(of_prior(posterior), np.float64)
    rate = mean_and_stderr(kl.sum(1))
    return {
        "mutual_information": information._asdict() | INDEX_CODE | {"rows": _rows(x)},
        "mutual_information_minibatch": _minibatch(minibatch, x),
        "rate": rate | {"unit": "nats"},
        "marginal_kl": _marginal_kl(rate["value"], information, information.stderr, x),
        "active_units": {"value": measures.active_units(posterior.mean), "of": posterior.mean.shape[1]},
    }


def _codes(context: Context, x: ByteImages, posterior: Codes) -> dict[str, Any]:
    information = measures.code_information(posterior.indices)
    minibatch = measures.minibatch_code_information(posterior.indices, seed=context.seed)
    perplexity, used = measures.code_usage(posterior.indices)
    of = {"of": int(posterior.num_codes[0])}
    measured = {
        "mutual_information": information._asdict() | INDEX_CODE | {"rows": len(x)},
        "mutual_information_minibatch": _minibatch(minibatch, x),
        "code_perplexity": {"value": perplexity} | of,
        "codes_used": {"value": used} | of,
    }
    for prior in (term for term in context.model.likelihoods if term.kind == "code"):
        rate = _code_rate(context, prior, x)
        measured["rate"] = rate | {"unit": "nats", "rows": _rows(x)}
        measured["marginal_kl"] = _marginal_kl(rate["value"], information, rate["stderr"], x)
    return measured


MEASURES = {DiagonalGaussian: _gaussian, Codes: _codes}


def _code_rate(context: Context, prior: Likelihood, x: ByteImages) -> dict[str, float | None]:
    chosen = np.random.default_rng(context.seed).choice(len(x), _rows(x), replace=False)  # the marginal: no labels are told
    part = context._replace(progress=context.stage(f"likelihood of the codes of {len(chosen)} images"))
    return mean_and_stderr(part.map(prior.fn, len(chosen), x[chosen]))


def _rows(x: ByteImages) -> int:
    """How many of the images are looked at one by one, where all would take too long."""
    return min(measures.ROWS, len(x))


def _minibatch(information: Information, x: ByteImages) -> dict[str, Any]:
    return information._asdict() | {"kind": "minibatch", "unit": "nats", "batch": min(measures.MINIBATCH, len(x))}


def _marginal_kl(rate: float, information: Information, stderr: float | None, x: ByteImages) -> dict[str, Any]:
    """KL(q(z) || p(z)). `stderr`: of rate or information, the one that is not taken over all images."""
    return {"value": rate - information.value, "stderr": stderr, "unit": "nats", "rows": _rows(x)}
