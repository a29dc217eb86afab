"""Vector quantization and the moving codebook against vector-quantize-pytorch, in float32."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import stop_gradient

from gm_jax.nets.codebook import CODEBOOKS, nothing_seen, see, vector_quantize
from tests.parity.comparison import Comparison, Values
from tests.parity.recipes import normal

DECAY, COMMITMENT = 0.9, 0.25


class Size(NamedTuple):
    """Of a comparison: images, positions of each, codes, dimensions of a code."""

    batch: int = 4
    positions: int = 64
    codes: int = 32
    dim: int = 8


def _inputs(size: Size) -> dict[str, np.ndarray]:
    """Vectors, codes with what they have been used, and the gradient that comes back to the quantized vectors."""
    shape = (size.batch, size.positions, size.dim)
    drawn = {"z": normal("z", shape), "codebook": normal("codebook", (size.codes, size.dim))}
    drawn |= {"usage": 1 + np.abs(normal("usage", (size.codes,))), "upstream": normal("upstream", shape)}
    return {name: value.astype(np.float32) for name, value in drawn.items()}


def _quantized(size: Size) -> Comparison:
    given = _inputs(size)

    def ours() -> Values:
        def loss(z):
            quantized, indices = vector_quantize(z, jnp.asarray(given["codebook"]))
            commitment = jnp.mean((z - stop_gradient(quantized)) ** 2)
            return (quantized * given["upstream"]).sum() + COMMITMENT * commitment, (quantized, indices, commitment)

        gradient, found = jax.jit(jax.grad(loss, has_aux=True))(given["z"])
        return dict(zip(("vectors", "indices", "commitment", "gradient"), map(np.asarray, (*found, gradient)), strict=True))

    def theirs() -> Values:
        import torch

        z = torch.from_numpy(given["z"]).requires_grad_()
        quantized, indices, commitment = _their_layer(size)(z)
        ((quantized * torch.from_numpy(given["upstream"])).sum() + commitment).backward()
        found = {"vectors": quantized.detach(), "indices": indices, "commitment": commitment.detach() / COMMITMENT}
        return {name: value.numpy() for name, value in (found | {"gradient": z.grad}).items()}

    what = "vector quantization: vectors, indices, commitment, straight-through gradient"
    return _compare(what, size, ours, theirs)


def _moved(size: Size) -> Comparison:
    given = _inputs(size)

    def ours() -> Values:
        book = CODEBOOKS["ema"]()
        state = {"usage": given["usage"], "sums": given["usage"][:, None] * given["codebook"]}
        indices = vector_quantize(given["z"], given["codebook"])[1]
        seen = see(nothing_seen(size.codes, size.dim), given["z"], indices, np.zeros(indices.shape, np.float32))
        state = book.update(state, seen, DECAY)
        return {name: np.asarray(state[name]) for name in ("usage", "sums")} | {"codebook": np.asarray(book.vectors({}, state))}

    def theirs() -> Values:
        import torch

        layer = _their_layer(size)
        layer(torch.from_numpy(given["z"]))
        book = layer._codebook
        return {"usage": book.cluster_size[0].numpy(), "sums": book.embed_avg[0].numpy(), "codebook": book.embed[0].numpy()}

    return _compare(f"codebook by running means, one update, decay {DECAY}", size, ours, theirs)


def _their_layer(size: Size):
    import torch
    from vector_quantize_pytorch import VectorQuantize

    layer = VectorQuantize(size.dim, size.codes, decay=DECAY, commitment_weight=COMMITMENT, rotation_trick=False).train()
    usage, codebook = (torch.from_numpy(_inputs(size)[name]) for name in ("usage", "codebook"))
    book = layer._codebook
    for buffer, value in ((book.embed, codebook), (book.cluster_size, usage), (book.embed_avg, usage[:, None] * codebook)):
        buffer.data.copy_(value[None])
    return layer


def _compare(what: str, size: Size, ours: Callable[[], Values], theirs: Callable[[], Values]) -> Comparison:
    vectors = f"{size.batch} x {size.positions} vectors in {size.dim} dimensions, {size.codes} codes; float32"
    return Comparison(what, "vector-quantize-pytorch", "VectorQuantize", vectors, 2e-6, ours, theirs)


COMPARISONS: dict[str, Callable[[Size], Comparison]] = {"quantized": _quantized, "moved": _moved}
