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
    similarity = jnp.matmul(z, codebook.T, precision="highest")  # at lower precision other codes would be the nearest
    indices = jnp.argmin((codebook**2).sum(-1) - 2 * similarity, axis=-1)
    return z + stop_gradient(codebook[indices] - z), indices


def ema_statistics(
    usage: Float[Array, " code"],
    sums: Float[Array, "code d"],
    z: Float[Array, "*shape d"],
    indices: Int[Array, "*shape"],
    decay: float,
) -> tuple[Float[Array, " code"], Float[Array, "code d"]]:
    """Running means of N_k, how many vectors a batch assigns to code k, and m_k, their sum (appendix A.1, eq. 6, 7)."""
    assigned = jax.nn.one_hot(indices.reshape(-1), len(usage))
    totals = jnp.matmul(assigned.T, z.reshape(-1, z.shape[-1]), precision="highest")
    return decay * usage + (1 - decay) * assigned.sum(0), decay * sums + (1 - decay) * totals


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


# --- where the codebook is kept, and how it moves -----------------------------------------------------------------------------


class Codebook(NamedTuple):
    """A way to learn the codebook, as pure functions. `params`: the autoencoder's; `state`: the codebook's, with "usage"."""

    init: Callable[[Array, Array], tuple[PyTree, PyTree]]  # (vectors [code, d], usage [code]) -> params, state
    vectors: Callable[[PyTree, PyTree], Array]  # (params, state) -> [code, d]
    update: Callable[[PyTree, Array, Array, float], PyTree]  # (state, z, indices, decay) -> state
    restart: Callable[[PyTree, PyTree, Array, Array], PyTree]  # (params, state, dead [code], vectors [code, d]) -> state


def _ema_codebook() -> Codebook:
    def update(state, z, indices, decay):
        usage, sums = ema_statistics(state["usage"], state["sums"], z, indices, decay)
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

    def update(state, z, indices, decay):
        usage, _ = ema_statistics(state["usage"], jnp.zeros_like(state["offset"]), z, indices, decay)
        return {**state, "usage": usage}

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
