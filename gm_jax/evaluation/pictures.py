"""The tasks that draw: samples, interpolation, denoising."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax import images
from gm_jax.core import DiagonalGaussian, Key, Model, Variables
from gm_jax.errors import InputError
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.sample import sample

TILE = 32  # a tile of a grid is at least so many pixels high and wide
INTERPOLATION_STEPS = 8
FRAMES, STRIP_FRAMES = 30, 10  # of the denoising animation and, evenly spaced among them, of the strip


def samples(context: Context) -> dict[str, Any]:
    """samples.png: n samples, in a grid as square as can be."""
    c = context
    drawn = sample(c.model, c.variables, c.n, c.seed, c.batch_size, options=c.options, progress=c.progress)
    images.save_png(c.out / "samples.png", _grid(drawn))
    return {"pictures": ["samples.png"]}


def has_samples(context: Context) -> bool:
    """Does the model sample? (A classifier does not.)"""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    try:
        jax.eval_shape(context.model.sample, context.variables, keys)
    except InputError:
        return False
    return True


def latent(model: Model, variables: Variables, keys: Key, x: jax.Array) -> jax.Array:
    """The latent that stands for x without avoidable noise: the mean of a Gaussian posterior, else what `encode` gives."""
    posterior = None if model.posterior is None else model.posterior(variables, x)
    return posterior.mean if isinstance(posterior, DiagonalGaussian) else model.encode(variables, keys, x)


def latent_is_continuous(context: Context) -> bool:
    """Can latents be averaged? (Codes cannot.)"""
    x, keys = jnp.zeros((1, *context.dataset.image_shape)), jax.random.split(jax.random.key(0), 1)
    z = jax.eval_shape(lambda *args: latent(context.model, *args), context.variables, keys, x)
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(z))


def interpolation(context: Context) -> dict[str, Any]:
    """interpolation.png: a row a pair of test images (2i, 2i + 1), for n pairs.

    The outer columns are the images themselves; those between decode the straight line from one latent to the other, ends
    included. The latent is the posterior mean where the posterior is Gaussian.
    """
    model, pairs = context.model, context.dataset.x_test[: 2 * context.n]

    def between(variables, keys, first, second):
        keys_first, keys_second, keys_decode = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
        z_first = latent(model, variables, keys_first, images.to_float(first))
        z_second = latent(model, variables, keys_second, images.to_float(second))

        def decode_at(weight):
            z = jax.tree.map(lambda a, b: (1 - weight) * a + weight * b, z_first, z_second)
            return images.to_uint8(model.decode(variables, keys_decode, z))

        return jnp.moveaxis(jax.lax.map(decode_at, jnp.linspace(0, 1, INTERPOLATION_STEPS)), 0, 1)

    first, second = pairs[0::2], pairs[1::2]
    steps = context.map(between, context.n, first, second)
    rows = np.concatenate([first[:, None], steps, second[:, None]], axis=1)
    images.save_png(context.out / "interpolation.png", grid_of_rows(rows))
    return {"pictures": ["interpolation.png"]}


def denoising(context: Context) -> dict[str, Any]:
    """denoising.png: a row a sample, time from left to right; denoising.gif: the same samples as a moving grid."""
    model, options = context.model, context.options

    def draw(variables, keys):
        x = model.trajectory(variables, keys, frames=FRAMES, **options)
        return jnp.moveaxis(images.to_uint8(x), 0, 1)

    x = context.map(draw, context.n)
    last = x.shape[1] - 1
    shown = np.unique(np.linspace(0, last, min(STRIP_FRAMES, last + 1)).round().astype(int))
    images.save_png(context.out / "denoising.png", grid_of_rows(x[:, shown]))
    images.save_gif(context.out / "denoising.gif", np.stack([_grid(x[:, i]) for i in range(x.shape[1])]))
    return {"pictures": ["denoising.png", "denoising.gif"]}


def _grid(tiles: np.ndarray, columns: int | None = None) -> np.ndarray:
    return images.grid(tiles, columns, scale=math.ceil(TILE / min(tiles.shape[1:3])))


def grid_of_rows(rows: np.ndarray) -> np.ndarray:
    """[row, column, H, W, C] as a grid."""
    return _grid(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1])
