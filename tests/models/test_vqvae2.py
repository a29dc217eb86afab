"""VQ-VAE-2: two levels of codes, their priors one after the other, and bounds that sum over all codes."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy

from gm_jax.core import streams
from gm_jax.errors import InputError
from gm_jax.images import to_float, to_uint8
from gm_jax.models import vqvae2
from gm_jax.nets.code_priors import CoarseCodes, code_prior, told_coarser
from gm_jax.nets.codebook import vector_quantize
from gm_jax.quantized import Quantized, code_nll, joined, split
from tests.models.vqvae_case import batch_of_two_kinds, codebook_of, random_variables, with_gradient
from tests.weights import count

SHAPE, CODES, DIM = (8, 8, 1), 8, 3
PRIOR = {"name": "pixelcnn", "channels": 8, "num_layers": 1}
TRANSFORMER = {"name": "transformer", "channels": 8, "num_layers": 1, "num_heads": 2, "dropout": 0.0}
SMALL = {"autoencoder_steps": 2, "num_codes": CODES, "code_dim": DIM, "channels": 8, "num_blocks": 1}
SMALL |= {"top_prior": TRANSFORMER, "bottom_prior": PRIOR, "told_channels": 4, "told_blocks": 1}
make = partial(vqvae2.make, SHAPE, **SMALL)
NETWORKS = vqvae2.two_levels(1, DIM, 8, 1, 1, ((2, 2), (4, 4)))
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def batch():
    return batch_of_two_kinds()


@pytest.fixture(scope="module")
def variables(batch):
    return random_variables(make(), batch)


def levels(variables, x):
    """Both levels by the definitions of algorithm 1."""

    def quantize(level, z):
        return Quantized(z, *vector_quantize(z, codebook_of(variables, ("top", "bottom")[level])))

    return NETWORKS.encode(variables.params["autoencoder"]["networks"], x, quantize)


@pytest.mark.parametrize("codebook", ["ema", "loss"])
def test_the_loss_is_of_both_levels_and_moves_both_codebooks(codebook, batch):
    model = make(codebook=codebook, commitment=0.5)
    variables = random_variables(model, batch)
    value, metrics, state, grads = with_gradient(model, variables, batch)
    top, bottom = quick_jit(levels)(variables, batch.x)
    assert top.codes.shape == (6, 2, 2) and bottom.codes.shape == (6, 4, 4)
    x_mean = quick_jit(NETWORKS.decode)(variables.params["autoencoder"]["networks"], [top.vectors, bottom.vectors])
    mse = np.mean((batch.x - x_mean) ** 2)
    distance = sum(np.mean((q.z - q.vectors) ** 2) for q in (top, bottom))
    np.testing.assert_allclose(metrics["mse"], mse, rtol=1e-4)
    np.testing.assert_allclose(metrics["commitment"], distance, rtol=1e-4)
    expected = mse / 0.1 + (0.5 + (codebook == "loss")) * distance
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    for name, quantized in (("top", top), ("bottom", bottom)):
        counts = np.bincount(np.asarray(quantized.codes).ravel(), minlength=CODES)
        np.testing.assert_array_equal(state["seen"]["codes"][name].counts, counts)
        np.testing.assert_allclose(metrics[f"{name}_perplexity"], np.exp(entropy(counts)), rtol=1e-5)
    moved = jax.jit(partial(model.objectives[0].after, step=0))(variables.params, state)
    for name in ("top", "bottom"):
        usage, counts = variables.state["codebooks"][name]["usage"], state["seen"]["codes"][name].counts
        np.testing.assert_allclose(moved["codebooks"][name]["usage"], 0.99 * usage + 0.01 * counts, rtol=1e-5)
    networks, books = grads["autoencoder"]["networks"], grads["autoencoder"]["codebooks"]
    for part in (*networks.values(), *(books.values() if codebook == "loss" else ())):
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(part))


def test_the_priors_are_trained_after_the_autoencoder_and_apart(variables, batch):
    model = make(autoencoder_steps=7)
    windows = {o.name: (o.group, o.start, o.stop) for o in model.objectives}
    assert windows.pop("vqvae2") == ("autoencoder", 0, 7)
    assert windows == {name: (name, 7, None) for name in ("top_prior", "bottom_prior")}
    for i, name in ((1, "top_prior"), (2, "bottom_prior")):
        *_, state, grads = with_gradient(model, variables, batch, objective=i)
        assert [group for group in grads if any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads[group]))] == [name]
        jax.tree.map(np.testing.assert_array_equal, state, variables.state)


def test_samples_are_decoded_codes_drawn_top_first(variables):
    model, keys = make(), jax.random.split(jax.random.key(4), 6)
    top_keys, bottom_keys = streams(keys, "top", "bottom")
    fine = told_coarser(code_prior(PRIOR, (4, 4), CODES), CoarseCodes(CODES, 4, 1))
    top = quick_jit(code_prior(TRANSFORMER, (2, 2), CODES).sample)(variables.params["top_prior"], top_keys)
    bottom = quick_jit(fine.sample)(variables.params["bottom_prior"], bottom_keys, None, top)
    expected = quick_jit(model.decode)(variables, keys, joined([top, bottom]))
    np.testing.assert_allclose(quick_jit(model.sample)(variables, keys), expected, atol=1e-6)
    assert model.nfe() == 2 * 2 + 4 * 4


def test_codes_are_joined_top_first_and_a_bound_is_of_both(variables, batch):
    model, images = make(), to_uint8(np.asarray(batch.x))
    top, bottom = quick_jit(levels)(variables, to_float(images))
    codes = quick_jit(model.encode)(variables, batch.keys, to_float(images))
    np.testing.assert_array_equal(codes, joined([top.codes, bottom.codes]))
    for part, level in zip(split(codes, NETWORKS.grids), (top, bottom), strict=True):
        np.testing.assert_array_equal(part, level.codes)
    elbo, code = model.likelihoods
    nats = quick_jit(code.fn)(variables, batch.keys, images)
    top_logits = code_prior(TRANSFORMER, (2, 2), CODES).logits(variables.params["top_prior"], top.codes)
    fine = told_coarser(code_prior(PRIOR, (4, 4), CODES), CoarseCodes(CODES, 4, 1))
    bottom_logits = fine.logits(variables.params["bottom_prior"], bottom.codes, None, top.codes)
    np.testing.assert_allclose(nats, code_nll(top_logits, top.codes) + code_nll(bottom_logits, bottom.codes), rtol=1e-5)
    assert np.all(quick_jit(elbo.fn)(variables, batch.keys, images) > nats)


def test_the_probabilities_of_all_codes_of_both_levels_sum_to_one():
    """Two codes, grids of 1x1 and 2x2: 32 ways."""
    top = code_prior(TRANSFORMER, (1, 1), 2)
    bottom = told_coarser(code_prior(PRIOR, (2, 2), 2), CoarseCodes(2, 4, 1))
    params = [prior.init(jax.random.key(i)) for i, prior in enumerate((top, bottom))]
    params = jax.tree.map(lambda a: a + 0.5 * np.random.default_rng(a.size).normal(size=a.shape), params)
    codes = np.array(list(itertools.product(range(2), repeat=5)))
    coarse, fine = split(jnp.asarray(codes), ((1, 1), (2, 2)))
    nats = code_nll(top.logits(params[0], coarse), coarse) + code_nll(bottom.logits(params[1], fine, None, coarse), fine)
    np.testing.assert_allclose(np.exp(-np.float64(nats)).sum(), 1, atol=1e-5)
    assert np.ptp(nats) > 0.5


def test_the_size_of_the_networks():
    """rosinality/vq-vae-2-pytorch, in the paper's channels, has as many with its top encoder as wide as ours."""
    networks = vqvae2.two_levels(3, 64, 128, 2, 2, ((8, 8), (16, 16)))
    keys = jax.random.split(jax.random.key(0))
    assert count(jax.eval_shape(networks.init, *keys, jnp.zeros((1, 64, 64, 3)))) == 1_593_731


@pytest.mark.parametrize(
    "shape, setting, message",
    [
        ((8, 8, 1), {"halvings": 3}, "halvings=3 gives a bottom grid of 1x1"),
        ((8, 8, 1), {"halvings": 4}, "halvings=4"),
        ((2,), {}, "not for points"),
        ((8, 8, 1), {"told_blocks": -1}, "told_blocks"),
    ],
)
def test_bad_settings_are_named(shape, setting, message):
    with pytest.raises(InputError, match=message):
        vqvae2.make(shape, **{**SMALL, **setting})
