"""Attention against its definition, and when it leaves the work to cuDNN."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.nets import attention as module
from gm_jax.nets.attention import attention, cudnn_can


@pytest.fixture(autouse=True)
def fresh():
    cudnn_can.cache_clear()
    yield
    cudnn_can.cache_clear()


def inputs(dtype=jnp.float32):
    shapes = [(2, 5, 4), (2, 7, 4), (2, 7, 4)]
    return [
        jax.random.normal(key, shape, dtype) for key, shape in zip(jax.random.split(jax.random.key(0), 3), shapes, strict=True)
    ]


def by_hand(query, key, value, causal=False):
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    logits = np.einsum("bqc,bkc->bqk", query, key) / np.sqrt(query.shape[-1])
    logits = np.where(np.tri(*logits.shape[1:], dtype=bool), logits, -np.inf) if causal else logits
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return np.einsum("bqk,bkc->bqc", weights, value)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)])
def test_it_is_softmax_attention(dtype, tolerance, causal):
    found = attention(*inputs(dtype), causal=causal)
    assert found.dtype == dtype
    np.testing.assert_allclose(np.asarray(found, np.float32), by_hand(*inputs(dtype), causal=causal), atol=tolerance)


def test_without_a_gpu_cudnn_is_not_tried(monkeypatch):
    monkeypatch.setattr(jax.nn, "dot_product_attention", lambda *a, **k: pytest.fail("tried"))
    attention(*inputs(jnp.bfloat16))


def test_where_cudnn_refuses_the_result_is_the_same(monkeypatch):
    """A CPU that claims to be a GPU: JAX then refuses to compile cuDNN's attention, as it would for unfit shapes."""
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    assert not cudnn_can((2, 5, 4), (2, 7, 4), jnp.dtype(jnp.bfloat16))
    assert not cudnn_can((2, 5, 4), (2, 7, 4), jnp.dtype(jnp.float32))
    found = attention(*inputs(jnp.bfloat16))
    np.testing.assert_allclose(np.asarray(found, np.float32), by_hand(*inputs(jnp.bfloat16)), atol=3e-2)


def test_where_cudnn_can_it_gets_the_same_problem(monkeypatch):
    original, used = jax.nn.dot_product_attention, []

    def in_xla(query, key, value, implementation, is_causal=False):
        used.append(implementation)
        return original(query, key, value, is_causal=is_causal, implementation="xla")

    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax.nn, "dot_product_attention", in_xla)
    found = jax.jit(attention)(*inputs(jnp.bfloat16))
    assert used == ["cudnn", "cudnn"]  # to find out whether it can, with gradients; and to do it
    np.testing.assert_allclose(np.asarray(found, np.float32), by_hand(*inputs(jnp.bfloat16)), atol=3e-2)
    causal = jax.jit(partial(attention, causal=True))(*inputs(jnp.bfloat16))
    np.testing.assert_allclose(np.asarray(causal, np.float32), by_hand(*inputs(jnp.bfloat16), causal=True), atol=3e-2)
