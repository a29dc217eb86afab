"""A small VQ-VAE on 8x8 images, with weights and a batch, for its tests."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.core import Batch, Variables
from gm_jax.models import vqvae
from gm_jax.nets.codebook import nothing_seen, smoothed_codebook
from gm_jax.nets.vqvae_nets import Decoder, Encoder

SHAPE, GRID, CODES, DIM = (8, 8, 1), (4, 4), 8, 3
SMALL = {
    "autoencoder_steps": 2,
    "num_codes": CODES,
    "code_dim": DIM,
    "channels": 8,
    "halvings": 1,
    "num_blocks": 1,
    "prior": {"name": "pixelcnn", "channels": 8, "num_layers": 1},
}
make = partial(vqvae.make, SHAPE, **SMALL)
ENCODER, DECODER = Encoder(DIM, 8, 1, 1), Decoder(1, 8, 1, 1)


def batch_of_two_kinds() -> Batch:
    x = np.random.default_rng(0).normal(0, 0.2, (6, *SHAPE)).astype(np.float32)
    x[:3, :4] += 0.5
    return Batch(jnp.asarray(x), jnp.arange(6) % 3, jax.random.split(jax.random.key(1), 6))


def random_variables(model, batch):
    """Weights and codebook with no zero left, every code used alike, a variance of 0.1. Nothing is compiled."""
    normal = np.random.default_rng(1).normal
    known = {"usage": jnp.full(CODES, 12.0), "data_variance": jnp.float32(0.1), "likelihood_variance": jnp.float32(0.1)}

    def leaf(path, leaf):
        name = getattr(path[-1], "key", "")
        if name in known:
            return known[name]
        scale = 12 if name == "sums" else 1 / math.sqrt(math.prod(leaf.shape[:-1]))
        return jnp.float32(scale * normal(size=leaf.shape))

    params, state = jax.eval_shape(model.init, jax.random.key(0), batch)
    levels, zero = state["codebooks"], jnp.zeros(())
    seen = {"codes": dict.fromkeys(levels, nothing_seen(CODES, DIM)), "mse": zero, "microbatches": zero}
    kept = {"seen": seen, "restarted": dict.fromkeys(levels, zero)}
    params, state = jax.tree_util.tree_map_with_path(leaf, (params, {k: v for k, v in state.items() if k not in kept}))
    return Variables(params, {**state, **kept})


def codebook_of(variables, level="codes"):
    book = variables.state["codebooks"][level]
    if "sums" in book:
        return smoothed_codebook(book["usage"], book["sums"])
    return variables.params["autoencoder"]["codebooks"][level]["codebook"] + book["offset"]


def with_gradient(model, variables, batch, objective=0):
    loss = partial(model.objectives[objective].loss, step=0, train=True)
    (value, (state, metrics)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(*variables, None, batch)
    return value, metrics, state, grads
