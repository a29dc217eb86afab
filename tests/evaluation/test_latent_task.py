"""The task "latent" on encoders whose information can be computed by hand."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.cli.eval import _line
from gm_jax.core import Codes, DiagonalGaussian, Likelihood
from gm_jax.errors import InputError
from gm_jax.evaluation import latent, tasks
from gm_jax.images import to_float, to_uint8
from gm_jax.metrics import information as measures
from gm_jax.report import tables

N = 30  # training images of the toy


def measured(context, **fields):
    return tasks.evaluate(("latent",), context._replace(**fields))["metrics"]


def stored(context):
    return json.loads((context.out / "results.json").read_text())["metrics"]


def with_codes(context, *likelihoods):
    """Codes of four levels from four pixels; the first two images share theirs."""

    def posterior(variables, x, labels=None):
        return Codes(to_uint8(x[:, 0, :, 0]).astype(jnp.int32).reshape(-1, 2, 2) // 64, 4)

    x_train = context.dataset.x_train.copy()
    x_train[1] = x_train[0]
    model = context.model._replace(posterior=posterior, likelihoods=likelihoods)
    return context._replace(model=model, dataset=context.dataset._replace(x_train=x_train))


def uniform_nats(variables, keys, images, labels=None):
    return jnp.full(len(images), 4 * math.log(4))


def test_a_gaussian_posterior_is_measured_on_all_training_images(context):
    entries = measured(context)
    x = np.asarray(to_float(context.dataset.x_train)).reshape(N, -1)[:, :8]
    zeros = np.zeros_like(x)
    information = entries["mutual_information"]
    assert information["value"] == pytest.approx(measures.index_code_information(x, zeros).value, rel=1e-5)
    assert {"kind": "index-code", "split": "train", "n": N, "rows": N, "ceiling": math.log(N)}.items() <= information.items()
    assert entries["mutual_information_minibatch"]["batch"] == N
    assert entries["rate"]["value"] == pytest.approx(0.5 * (x**2).sum(1).mean(), rel=1e-5)
    assert entries["marginal_kl"]["value"] == pytest.approx(entries["rate"]["value"] - information["value"])
    assert entries["active_units"]["value"] == 8 and entries["active_units"]["of"] == 8
    assert set(stored(context)) == set(entries)


def test_a_collapsed_encoder_has_no_information(context):
    def posterior(variables, x, labels=None):
        return DiagonalGaussian(jnp.zeros((len(x), 8)), jnp.zeros((len(x), 8)))

    entries = measured(context, model=context.model._replace(posterior=posterior))
    values = {name: entry["value"] for name, entry in entries.items()}
    assert values == pytest.approx(dict.fromkeys(values, 0), abs=1e-12) and len(values) == 5


def test_neither_batches_nor_their_size_matter(context):
    assert measured(context, batch_size=7) == measured(context, batch_size=30)


def test_n_takes_images_at_random_but_always_the_same(context):
    some = context._replace(dataset=context.dataset._replace(x_train=context.real("train", 12)[0]))
    assert measured(context, n=12) == measured(some)
    with pytest.raises(InputError, match="the training split has 30 images; n=31 asked"):
        measured(context, n=31)


def test_rows_bound_the_work_and_not_the_ceiling(context, monkeypatch):
    monkeypatch.setattr(measures, "ROWS", 10)
    information = measured(context)["mutual_information"]
    assert information["rows"] == 10 and information["ceiling"] == math.log(N) and information["n"] == N


def test_codes_have_an_entropy_and_a_rate_under_the_prior(context):
    entries = measured(with_codes(context, Likelihood("elbo", "bound", None), Likelihood("codes", "code", uniform_nats)))
    maps = context.dataset.x_train[:, 0, :, 0] // 64
    maps[1] = maps[0]
    information = entries["mutual_information"]
    assert information["value"] == pytest.approx(measures.code_information(maps).value) and information["stderr"] is None
    assert information["value"] < information["ceiling"] == math.log(N)
    assert entries["rate"]["value"] == pytest.approx(4 * math.log(4))
    difference = entries["rate"]["value"] - entries["mutual_information"]["value"]
    assert entries["marginal_kl"]["value"] == pytest.approx(difference) and difference > 0
    assert entries["codes_used"]["value"] == entries["codes_used"]["of"] == 4
    assert 3 < entries["code_perplexity"]["value"] <= 4
    assert "active_units" not in entries


def test_codes_without_a_prior_have_no_rate(context):
    entries = measured(with_codes(context))
    assert "mutual_information" in entries and not {"rate", "marginal_kl"} & set(entries)


def test_a_deterministic_encoder_gets_a_note_and_no_number(context):
    model = context.model._replace(posterior=None, encode=lambda variables, keys, x, labels=None: x)
    entries = measured(context, model=model)
    assert list(entries) == ["mutual_information"]
    [entry] = stored(context)["mutual_information"]
    assert entry["value"] is None and entry["note"] == latent.INFINITE
    assert latent.INFINITE in _line("mutual_information", entry)
    cell = tables.cell([entry], steps=7)
    assert cell.text == latent.INFINITE and cell.value is None
    with_posterior = measured(context)["mutual_information"]
    assert tables.protocol(entry) == tables.protocol(with_posterior), "both stand in one column"


def test_an_exact_value_is_printed_without_an_error(context):
    line = _line("mutual_information", measured(with_codes(context))["mutual_information"])
    assert "+-" not in line and "(n=30, ema weights of step 7)" in line


def test_a_model_without_encoder_is_refused(context):
    without = context.model._replace(posterior=None, encode=None)
    with pytest.raises(InputError, match="toy has no posterior"):
        measured(context, model=without)
