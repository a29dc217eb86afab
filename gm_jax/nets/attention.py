"""Softmax attention, by cuDNN's fused kernel where that can do it."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attention(
    query: Float[Array, "batch queries channel"],
    key: Float[Array, "batch keys channel"],
    value: Float[Array, "batch keys channel"],
    causal: bool = False,
) -> Float[Array, "batch queries channel"]:
    """softmax(query key^T / sqrt(channel)) value, in one head (Vaswani et al. 2017, equation 1); the softmax in float32.

    causal: query i attends to keys 0 .. i alone.
    """
    if cudnn_can(query.shape, key.shape, query.dtype):
        heads = (x[:, :, None, :] for x in (query, key, value))
        return jax.nn.dot_product_attention(*heads, is_causal=causal, implementation="cudnn")[:, :, 0, :]
    return masked_attention(query, key, value, jnp.tri(query.shape[1], key.shape[1], dtype=bool) if causal else None)


def masked_attention(
    query: Float[Array, "batch queries channel"],
    key: Float[Array, "batch keys channel"],
    value: Float[Array, "batch keys channel"],
    visible: Bool[Array, "queries keys"] | None,
) -> Float[Array, "batch queries channel"]:
    """The same, where a query attends to the keys that are visible to it: at least one.

    The denominator of the softmax divides the sums over values, which are fewer numbers than the weights.
    """
    logits = jnp.einsum("bqc,bkc->bqk", query, key, preferred_element_type=jnp.float32) * query.shape[-1] ** -0.5
    logits = logits if visible is None else jnp.where(visible, logits, -jnp.inf)
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
    sums = jnp.einsum("bqk,bkc->bqc", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (sums / weights.sum(axis=-1, keepdims=True)).astype(value.dtype)


@functools.cache
def cudnn_can(queries: tuple[int, int, int], keys: tuple[int, int, int], dtype: jnp.dtype) -> bool:
    """Whether cuDNN attends over such arrays, with gradients: found out by compiling it for one example, once.

    It takes half precision only, and numbers of channels that depend on the GPU and on its own version.
    """
    if jax.default_backend() != "gpu" or jnp.dtype(dtype).itemsize != 2:
        return False

    def loss(query, key, value):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn").astype(jnp.float32).sum()

    one = [jax.ShapeDtypeStruct((1, n, 1, c), dtype) for _, n, c in (queries, keys, keys)]
    try:
        jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*one).compile()
    except Exception:  # what is raised depends on which of JAX, XLA and cuDNN refuses
        return False
    return True
