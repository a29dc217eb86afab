import jax
import numpy as np
import pytest

from gm_jax.nets.codebook import (
    CODEBOOKS,
    choose_vectors,
    nothing_seen,
    perplexity,
    restart_dead_codes,
    see,
    smoothed_codebook,
    some_vectors,
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


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_running_means_follow_the_closed_form(codebook):
    # the same assignment every time: N_t = d^t N_0 + (1 - d^t) n, and the sums likewise
    usage, vectors = np.float32(DRAW.uniform(1, 2, 3)), np.float32(DRAW.normal(size=(3, 2)))
    z, indices = np.float32(DRAW.normal(size=(2, 2, 2))), np.array([[0, 0], [2, 0]])
    book, left = CODEBOOKS[codebook](), 0.9**20
    _, first = book.init(vectors, usage)
    step = jax.jit(lambda state: book.update(state, see(nothing_seen(3, 2), z, indices, np.zeros((2, 2))), 0.9))
    state = first
    for _ in range(20):
        state = step(state)
    np.testing.assert_allclose(state["usage"], left * usage + (1 - left) * np.array([3, 0, 1]), rtol=1e-5)
    if codebook == "ema":
        totals = np.stack([z[0].sum(0) + z[1, 1], np.zeros(2), z[1, 0]])
        np.testing.assert_allclose(state["sums"], left * first["sums"] + (1 - left) * totals, rtol=1e-5, atol=1e-6)


def test_microbatches_are_seen_as_the_whole_batch_is():
    z, scores = np.float32(DRAW.normal(size=(6, 4, DIM))), np.float32(DRAW.uniform(size=(6, 4)))
    indices = DRAW.integers(0, CODES, (6, 4))
    add = jax.jit(see)
    whole, seen = add(nothing_seen(CODES, DIM), z, indices, scores), nothing_seen(CODES, DIM)
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        seen = add(seen, z[part], indices[part], scores[part])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), seen, whole)
    np.testing.assert_array_equal(whole.counts, np.bincount(indices.ravel(), minlength=CODES))
    np.testing.assert_array_equal(some_vectors(whole), z.reshape(-1, DIM)[np.argsort(scores.ravel())[:CODES]])


def test_few_vectors_are_taken_again_from_the_first():
    z = np.float32(DRAW.normal(size=(3, DIM)))
    seen = see(nothing_seen(CODES, DIM), z, np.zeros(3, int), np.array([0.5, 0.1, 0.9]))
    np.testing.assert_array_equal(some_vectors(seen), z[[1, 0, 2, 1, 0, 2, 1, 0]])


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
