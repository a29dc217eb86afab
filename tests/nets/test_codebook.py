from functools import partial

import jax
import numpy as np
import pytest

from gm_jax.nets.codebook import (
    CODEBOOKS,
    choose_vectors,
    ema_statistics,
    perplexity,
    restart_dead_codes,
    smoothed_codebook,
    vector_quantize,
)

CODES, DIM = 8, 3
DRAW = np.random.default_rng(0)


def test_vector_quantize_agrees_with_brute_force():
    z, codebook = DRAW.normal(size=(5, 4, 4, DIM)).astype(np.float32), DRAW.normal(size=(CODES, DIM)).astype(np.float32)
    quantized, indices = jax.jit(vector_quantize)(z, codebook)
    distances = np.linalg.norm(z[..., None, :].astype(np.float64) - codebook, axis=-1)
    np.testing.assert_array_equal(indices, distances.argmin(-1))
    np.testing.assert_allclose(quantized, codebook[indices], atol=1e-6)


def test_the_gradient_goes_straight_through():
    z, codebook = DRAW.normal(size=(5, DIM)), DRAW.normal(size=(CODES, DIM))
    upstream = DRAW.normal(size=(5, DIM))
    grads = jax.jit(jax.grad(lambda z, e: (vector_quantize(z, e)[0] * upstream).sum(), (0, 1)))(z, codebook)
    np.testing.assert_allclose(grads[0], upstream, rtol=1e-6)
    np.testing.assert_array_equal(grads[1], np.zeros((CODES, DIM)))


def test_ema_statistics_follow_the_closed_form():
    # the same assignment every time: N_t = d^t N_0 + (1 - d^t) n, and the sums likewise
    usage, sums = np.float32(DRAW.uniform(1, 2, 3)), np.float32(DRAW.normal(size=(3, 2)))
    z, indices = np.float32(DRAW.normal(size=(2, 2, 2))), np.array([[0, 0], [2, 0]])
    step, decay, steps = jax.jit(partial(ema_statistics, decay=0.9)), 0.9**20, 20
    got = (usage, sums)
    for _ in range(steps):
        got = step(*got, z, indices)
    totals = np.stack([z[0].sum(0) + z[1, 1], np.zeros(2), z[1, 0]])
    np.testing.assert_allclose(got[0], decay * usage + (1 - decay) * np.array([3, 0, 1]), rtol=1e-5)
    np.testing.assert_allclose(got[1], decay * sums + (1 - decay) * totals, rtol=1e-5, atol=1e-6)


def test_laplace_smoothing():
    usage, sums, eps = np.array([4.0, 0.0, 1e-6, 2.0]), np.ones((4, 2)), 1e-5
    n = usage.sum()
    expected = sums / ((usage + eps) / (n + 4 * eps) * n)[:, None]
    np.testing.assert_allclose(jax.jit(smoothed_codebook)(usage, sums), expected, rtol=1e-5)


@pytest.mark.parametrize("frequencies, expected", [([8, 0, 0, 0], 1), ([2, 2, 2, 2], 4), ([4, 4, 0, 0], 2)])
def test_perplexity(frequencies, expected):
    indices = np.repeat(np.arange(4), frequencies).reshape(2, 4)
    np.testing.assert_allclose(jax.jit(perplexity, static_argnums=1)(indices, 4), expected, rtol=1e-5)


def test_chosen_vectors_are_distinct_until_they_run_out():
    z, scores = np.arange(12.0).reshape(2, 3, 2), np.array([[0.5, 0.1, 0.9], [0.3, 0.7, 0.2]])
    order = [1, 5, 3, 0, 4, 2]
    np.testing.assert_array_equal(choose_vectors(scores, z, 4), z.reshape(6, 2)[order[:4]])
    np.testing.assert_array_equal(choose_vectors(scores, z, 8), z.reshape(6, 2)[[*order, 1, 5]])


def test_restarts_are_for_dead_codes_only_and_can_be_switched_off():
    book, vectors = CODEBOOKS["ema"](), np.float32(DRAW.normal(size=(4, 2)))
    state = {"usage": np.float32([5.0, 0.0, 2.99, 4.01]), "sums": np.ones((4, 2), np.float32)}  # mean 3
    after, dead = restart_dead_codes(book, {}, state, vectors, 1.0)
    np.testing.assert_array_equal(dead, [False, True, True, False])
    np.testing.assert_allclose(after["usage"], [5, 3, 3, 4.01])
    np.testing.assert_allclose(book.vectors({}, after)[1:3], vectors[1:3], rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(after["sums"])[[0, 3]], np.ones((2, 2)))
    assert not restart_dead_codes(book, {}, state, vectors, 0.0)[1].any()
