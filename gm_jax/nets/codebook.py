"""Vector quantization: the nearest vector of a codebook takes a vector's place, and the ways in which a codebook is learnt.

VQ              van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning"   eq. 1-3, appendix A.1
dead codes      Dhariwal et al. 2020, "Jukebox", section 3.1: a code that is hardly used moves to an encoder output
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Bool, Float, Int

from gm_jax.core import PyTree

LAPLACE_EPS = 1e-5  # counts; Sonnet's


def vector_quantize(
    z: Float[Array, "*shape d"], codebook: Float[Array, "code d"]
) -> tuple[Float[Array, "*shape d"], Int[Array, "*shape"]]:
    """(the nearest codebook vectors, their indices) (van den Oord et al. 2017, eq. 1, 2).

    Straight-through: the gradient by the vectors is passed on to z as it is; none reaches the codebook.
    """
    codebook = jnp.asarray(codebook)
    similarity = jnp.matmul(z, codebook.T, precision="highest")  # at lower precision other codes would be the nearest
    indices = jnp.argmin((codebook**2).sum(-1) - 2 * similarity, axis=-1)
    return z + stop_gradient(codebook[indices] - z), indices


def assignments(
    z: Float[Array, "*shape d"], indices: Int[Array, "*shape"], num_codes: int
) -> tuple[Float[Array, " code"], Float[Array, "code d"]]:
    """n_k, how many vectors are assigned to code k, and their sum (appendix A.1)."""
    assigned = jax.nn.one_hot(indices.reshape(-1), num_codes)
    return assigned.sum(0), jnp.matmul(assigned.T, z.reshape(-1, z.shape[-1]), precision="highest")


def running_mean(old: Array, new: Array, decay: float) -> Array:
    """Of N_k and m_k over the updates (appendix A.1, eq. 6, 7)."""
    return decay * old + (1 - decay) * new


def smoothed_codebook(usage: Float[Array, " code"], sums: Float[Array, "code d"]) -> Float[Array, "code d"]:
    """e_k = m_k / N_k (appendix A.1, eq. 8), with Laplace smoothing of N_k as in Sonnet: no division by zero."""
    total = usage.sum()
    smoothed = (usage + LAPLACE_EPS) / (total + len(usage) * LAPLACE_EPS) * total
    return sums / smoothed[:, None]


def perplexity(indices: Int[Array, "*shape"], num_codes: int) -> Float[Array, ""]:
    """exp of the entropy of the codes' frequencies: from 1 (one code does everything) to `num_codes` (all used alike)."""
    frequency = jnp.bincount(indices.reshape(-1), length=num_codes) / indices.size
    return jnp.exp(jax.scipy.special.entr(frequency).sum())


def choose_vectors(scores: Float[Array, "*shape"], z: Float[Array, "*shape d"], count: int) -> Float[Array, "count d"]:
    """The `count` vectors of lowest score; from the first again where there are fewer."""
    order = jnp.argsort(scores.reshape(-1))
    return z.reshape(-1, z.shape[-1])[jnp.resize(order, count)]


# --- what an update sees, over its microbatches -------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Sums over the microbatches of one update, and some of their vectors: those that were given the lowest scores."""

    counts: Float[Array, " code"]
    totals: Float[Array, "code d"]
    scores: Float[Array, " code"]  # infinite where there is no vector yet
    vectors: Float[Array, "code d"]


def nothing_seen(num_codes: int, dim: int) -> Seen:
    """Before the first microbatch."""
    zeros = jnp.zeros((num_codes, dim))
    return Seen(jnp.zeros(num_codes), zeros, jnp.full(num_codes, jnp.inf), zeros)


def see(seen: Seen, z: Float[Array, "*shape d"], indices: Int[Array, "*shape"], scores: Float[Array, "*shape"]) -> Seen:
    """After one more microbatch, with a random score for every vector: the same for the whole as for its parts in turn."""
    counts, totals = assignments(z, indices, len(seen.counts))
    scores = jnp.concatenate([seen.scores, scores.reshape(-1)])
    vectors = jnp.concatenate([seen.vectors, z.reshape(-1, z.shape[-1])])
    lowest = jnp.argsort(scores)[: len(seen.counts)]
    return Seen(seen.counts + counts, seen.totals + totals, scores[lowest], vectors[lowest])


def some_vectors(seen: Seen) -> Float[Array, "code d"]:
    """As many of the vectors as there are codes; from the first again where there are fewer."""
    found = jnp.isfinite(seen.scores).sum()
    return seen.vectors[jnp.arange(len(seen.scores)) % jnp.maximum(found, 1)]


# --- where the codebook is kept, and how it moves -----------------------------------------------------------------------------


class Codebook(NamedTuple):
    """A way to learn the codebook, as pure functions. `params`: the autoencoder's; `state`: the codebook's, with "usage"."""

    init: Callable[[Array, Array], tuple[PyTree, PyTree]]  # (vectors [code, d], usage [code]) -> params, state
    vectors: Callable[[PyTree, PyTree], Array]  # (params, state) -> [code, d]
    update: Callable[[PyTree, Seen, float], PyTree]  # (state, seen, decay) -> state
    restart: Callable[[PyTree, PyTree, Array, Array], PyTree]  # (params, state, dead [code], vectors [code, d]) -> state


def _ema_codebook() -> Codebook:
    def update(state, seen, decay):
        usage, sums = running_mean(state["usage"], seen.counts, decay), running_mean(state["sums"], seen.totals, decay)
        return {"usage": usage, "sums": sums}

    def restart(params, state, dead, vectors):
        sums = jnp.where(dead[:, None], state["usage"][:, None] * vectors, state["sums"])
        return {**state, "sums": sums}

    return Codebook(
        init=lambda vectors, usage: ({}, {"usage": usage, "sums": usage[:, None] * vectors}),
        vectors=lambda params, state: smoothed_codebook(state["usage"], state["sums"]),
        update=update,
        restart=restart,
    )


def _loss_codebook() -> Codebook:
    """By gradient. What the optimizer moves cannot be set, so a restart goes into an offset that is added to it."""

    def update(state, seen, decay):
        return {**state, "usage": running_mean(state["usage"], seen.counts, decay)}

    def restart(params, state, dead, vectors):
        return {**state, "offset": jnp.where(dead[:, None], vectors - params["codebook"], state["offset"])}

    return Codebook(
        init=lambda vectors, usage: ({"codebook": vectors}, {"usage": usage, "offset": jnp.zeros_like(vectors)}),
        vectors=lambda params, state: params["codebook"] + state["offset"],
        update=update,
        restart=restart,
    )


CODEBOOKS = {"ema": _ema_codebook, "loss": _loss_codebook}


def restart_dead_codes(
    book: Codebook, params: PyTree, state: PyTree, vectors: Float[Array, "code d"], below: float
) -> tuple[PyTree, Bool[Array, " code"]]:
    """Moves codes whose running usage is less than `below` times the mean usage to `vectors`: (state, which ones).

    They count as used averagely from then on, which gives them time to find vectors of their own.
    """
    mean = state["usage"].mean()
    dead = state["usage"] < below * mean
    state = {**state, "usage": jnp.where(dead, mean, state["usage"])}
    return book.restart(params, state, dead, vectors), dead
