"""The prior over the codes of a VQ-VAE: its stage of training, samples, and the likelihoods that it takes part in."""

import json
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from gm_jax.core import streams
from gm_jax.densities import discretized_gaussian_log_prob
from gm_jax.errors import InputError
from gm_jax.images import to_float, to_uint8
from gm_jax.nets import pixelcnn
from gm_jax.nets.pixelcnn import GatedPixelCNN
from gm_jax.training.restore import restore
from tests.models.vqvae_case import (
    CODES,
    DECODER,
    GRID,
    SMALL,
    batch_of_two_kinds,
    codebook_of,
    make,
    random_variables,
    with_gradient,
)
from tests.training.support import assert_close, finish, leaves, settings, start_jobs, train

RATES = {"vqvae": 0.01, "prior": 0.003}


@pytest.fixture(scope="module")
def batch():
    return batch_of_two_kinds()


@pytest.fixture(scope="module")
def variables(batch):
    return random_variables(make(), batch)


# --- two stages ---------------------------------------------------------------------------------------------------------------


def test_the_prior_does_not_move_the_autoencoder(variables, batch):
    model = make(autoencoder_steps=7)
    first, second = model.objectives
    assert (first.group, first.start, first.stop) == ("autoencoder", 0, 7)
    assert (second.group, second.start, second.stop) == ("prior", 7, None)
    value, metrics, state, grads = with_gradient(model, variables, batch, objective=1)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(grads["autoencoder"]))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["prior"]))
    jax.tree.map(np.testing.assert_array_equal, state, variables.state)
    np.testing.assert_allclose(metrics["bits_per_code"], value / (16 * math.log(2)), rtol=1e-6)


def test_one_run_trains_both_stages_and_any_devices_take_the_same_steps(tmp_path):
    def config(parallel, steps=5):
        optimizer = {"learning_rate": 1e-3, "ema_decay": 0.9, "vqvae": {"ema_decay": 0.0}}
        model = {"name": "vqvae", **SMALL, "autoencoder_steps": 3, "restart_below": 0.8, "codebook_decay": 0.5}
        return settings(model, parallel=parallel, optimizer=optimizer, steps=steps, log_every=1)

    process = start_jobs(tmp_path / "jobs.json", [(config(p), tmp_path / p, None) for p in ("jit", "pmap")], devices=8)
    halfway = train(config("jit", steps=3), tmp_path / "single")
    single = train(config("jit"), tmp_path / "single")  # resumes at the beginning of stage two
    finish(process)
    for parallel in ("jit", "pmap"):
        assert_close(leaves(tmp_path / parallel), single, rtol=1e-3, atol=1e-4)
    lines = [json.loads(line) for line in (tmp_path / "single/metrics.jsonl").read_text().splitlines()]
    assert [("vqvae/loss" in line, "prior/loss" in line) for line in lines] == [(True, False)] * 3 + [(False, True)] * 2
    assert sum(line.get("vqvae/restarted", 0) for line in lines) > 0  # of the updates before
    for path, value in halfway.items():
        if path.startswith((".params['autoencoder']", ".state")):
            np.testing.assert_array_equal(single[path], value, path)
    averages = [path for path in single if ".ema" in path]
    assert averages and all("'prior'" in path for path in averages)
    assert restore(tmp_path / "single").weights == "ema"


# --- samples and likelihoods --------------------------------------------------------------------------------------------------


def test_samples_are_decoded_codes_of_the_prior(variables):
    model, keys = make(), jax.random.split(jax.random.key(4), 6)
    net, decode = GatedPixelCNN(CODES, 8, 1), jax.jit(model.decode)
    sample = jax.jit(model.sample, static_argnames="temperature")
    for temperature in (1.0, 1e-4):
        draw = jax.jit(partial(pixelcnn.sample, net, grid=GRID, temperature=temperature))
        codes = draw(variables.params["prior"], *streams(keys, "codes"))
        assert len(np.unique(codes.reshape(6, -1), axis=0)) == (6 if temperature == 1 else 1)  # cold: always the likeliest
        x = sample(variables, keys, temperature=temperature)
        np.testing.assert_allclose(x, decode(variables, keys, codes), atol=1e-6)
    assert model.nfe() == model.nfe(temperature=0.5) == 16
    for call in (partial(model.sample, variables, keys), model.nfe):
        with pytest.raises(InputError, match="temperature=0"):
            call(temperature=0)


def test_likelihoods_add_up(variables, batch):
    model, images = make(), to_uint8(np.asarray(batch.x))
    elbo, codes = model.likelihoods
    assert [(term.name, term.kind) for term in model.likelihoods] == [("elbo", "bound"), ("codes", "code")]
    autoencoder = variables.params["autoencoder"]
    indices = jax.jit(model.encode)(variables, batch.keys, to_float(images))
    x_mean = jax.jit(DECODER.apply)({"params": autoencoder["networks"]["decoder"]}, codebook_of(variables)[indices])
    log_likelihood = jax.jit(discretized_gaussian_log_prob)(images, x_mean, 0.1).sum((1, 2, 3))
    code_nats = jax.jit(codes.fn)(variables, batch.keys, images)
    np.testing.assert_allclose(jax.jit(elbo.fn)(variables, batch.keys, images), code_nats - log_likelihood, rtol=1e-5)
    logits = np.asarray(jax.jit(GatedPixelCNN(CODES, 8, 1).apply)({"params": variables.params["prior"]}, indices))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(probs, np.asarray(indices)[..., None], -1)
    np.testing.assert_allclose(code_nats, -np.log(chosen).sum((1, 2, 3)), rtol=1e-5)


@pytest.fixture(scope="module")
def conditional(batch):
    """A model that is given labels."""
    model = make(num_classes=3, class_conditional=True)
    return model, random_variables(model, batch)


def test_without_labels_a_conditional_likelihood_is_the_mean_over_classes(conditional, batch):
    model, variables = conditional
    nats, images = jax.jit(model.likelihoods[1].fn), to_uint8(np.asarray(batch.x))
    by_class = [nats(variables, batch.keys, images, jnp.full(6, label)) for label in range(3)]
    assert np.ptp(by_class, axis=0).min() > 1e-3
    expected = np.log(3) - logsumexp(-np.float64(by_class), axis=0)
    np.testing.assert_allclose(nats(variables, batch.keys, images), expected, rtol=1e-5)


def test_labels_steer_the_samples_of_a_conditional_model(conditional, batch):
    model, variables = conditional
    keys, sample = jax.random.split(jax.random.key(4), 32), jax.jit(model.sample)
    by_class = [sample(variables, keys, jnp.full(32, label)) for label in range(3)]
    drawn = sample(variables, keys)
    matches = np.array([np.abs(x - drawn).max((1, 2, 3)) < 1e-5 for x in by_class])
    assert np.all(matches.any(0)) and np.all(matches.sum(1) > 3)  # a class each, all classes
    loss = jax.jit(partial(model.objectives[1].loss, step=0, train=True))
    values = [loss(*variables, None, batch._replace(labels=(batch.labels + shift) % 3))[0] for shift in range(2)]
    assert abs(values[0] - values[1]) > 1e-3
