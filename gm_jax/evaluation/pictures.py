"""The tasks that draw: samples, interpolation, denoising."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8

from gm_jax import images
from gm_jax.core import DiagonalGaussian, Key, Model, Variables
from gm_jax.data.dataset import Dataset
from gm_jax.data.toys import TOYS
from gm_jax.errors import InputError
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.scatter import density_picture, scatter

TILE = 32  # a tile of a grid is at least so many pixels high and wide
PLOT = 192  # pixels, the side of a plot of points
COLUMNS_OF_CLASSES = range(4, 17)  # so many classes have a column each; fewer would make a tower, more a ribbon
INTERPOLATION_STEPS = 8
FRAMES, STRIP_FRAMES = 30, 10  # of the denoising animation and, evenly spaced among them, of the strip


def samples(context: Context) -> dict[str, Any]:
    """samples.png: n samples; of points, all in one plot beside their exact density, where that is known."""
    drawn, labels = context.draw()
    images.save_png(context.out / "samples.png", picture(context.dataset, drawn, labels))
    return {"pictures": ["samples.png"]}


def picture(dataset: Dataset, drawn: np.ndarray, labels: Int[np.ndarray, " n"] | None = None) -> UInt8[np.ndarray, "h w c"]:
    """Images in a grid as square as can be, or, of 4 to 16 classes, with a column for each; points scattered."""
    if drawn.ndim == 4:
        classes = 0 if labels is None else len(np.unique(labels))
        return _grid(drawn, classes if classes in COLUMNS_OF_CLASSES and len(drawn) > classes else None)
    toy, box = TOYS.get(dataset.name), box_of(dataset)
    plots = [scatter(drawn, box, PLOT, labels)]
    if toy is not None:
        plots.append(density_picture(toy.log_density, box, PLOT))
    return images.tiled(np.stack(plots), len(plots))


def box_of(dataset: Dataset) -> float:
    """Half the side of the square that plots of points show."""
    toy = TOYS.get(dataset.name)
    return toy.box if toy is not None else 1.1 * float(np.abs(dataset.x_train).max())


def has_picture(context: Context) -> bool:
    """Grey or RGB images, or points of a plane."""
    *_, last = shape = context.dataset.image_shape
    return last in (1, 3) if len(shape) == 3 else shape == (2,)


def has_samples(context: Context) -> bool:
    """Does the model sample? (A classifier does not.)"""
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    try:
        jax.eval_shape(context.model.sample, context.variables, keys)
    except InputError:
        return False
    return True


def latent(model: Model, variables: Variables, keys: Key, x: jax.Array, labels: jax.Array | None) -> jax.Array:
    """The latent that stands for x without avoidable noise: the mean of a Gaussian posterior, else what `encode` gives."""
    posterior = None if model.posterior is None else model.posterior(variables, x, labels)
    return posterior.mean if isinstance(posterior, DiagonalGaussian) else model.encode(variables, keys, x, labels)


def latent_is_continuous(context: Context) -> bool:
    """Can latents be averaged? (Codes cannot.)"""
    x, keys = jnp.zeros((1, *context.dataset.image_shape)), jax.random.split(jax.random.key(0), 1)
    labels = context.given_labels(np.zeros(1, np.int32))
    z = jax.eval_shape(lambda *args: latent(context.model, *args), context.variables, keys, x, labels)
    return all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(z))


def interpolation(context: Context) -> dict[str, Any]:
    """interpolation.png: a row a pair of test images (2i, 2i + 1), for n pairs; of a conditional model, pairs of one class.

    The outer columns are the images themselves; those between decode the straight line from one latent to the other, ends
    included. The latent is the posterior mean where the posterior is Gaussian.
    """
    model, (first, second, labels) = context.model, pairs(context)

    def between(variables, keys, first, second, labels):
        keys_first, keys_second, keys_decode = jax.vmap(lambda key: jax.random.split(key, 3), out_axes=1)(keys)
        z_first = latent(model, variables, keys_first, images.to_float(first), labels)
        z_second = latent(model, variables, keys_second, images.to_float(second), labels)

        def decode_at(weight):
            z = jax.tree.map(lambda a, b: (1 - weight) * a + weight * b, z_first, z_second)
            return images.to_uint8(model.decode(variables, keys_decode, z, labels))

        return jnp.moveaxis(jax.lax.map(decode_at, jnp.linspace(0, 1, INTERPOLATION_STEPS)), 0, 1)

    steps = context.map(between, len(first), first, second, labels)
    rows = np.concatenate([first[:, None], steps, second[:, None]], axis=1)
    images.save_png(context.out / "interpolation.png", grid_of_rows(rows))
    return {"pictures": ["interpolation.png"]}


def pairs(context: Context) -> tuple[np.ndarray, np.ndarray, Int[np.ndarray, " pairs"] | None]:
    """n pairs of test images, and the class that both images of a pair have, where the model tells classes apart."""
    x, y = context.real("test", len(context.dataset.x_test) if context.model.num_classes else 2 * context.n)
    y = context.given_labels(y)
    if y is None:
        return x[0 : 2 * context.n : 2], x[1 : 2 * context.n : 2], None
    of_class = [np.flatnonzero(y == label) for label in np.unique(y)]
    of_class = [rows[: len(rows) // 2 * 2].reshape(-1, 2) for rows in of_class]
    in_turn = [rows[i] for i in range(max(map(len, of_class))) for rows in of_class if i < len(rows)]
    if not in_turn:
        raise InputError("interpolation: no two test images have the same class; give a larger test split")
    ends = np.stack(in_turn[: context.n])
    return x[ends[:, 0]], x[ends[:, 1]], y[ends[:, 0]]


def denoising(context: Context) -> dict[str, Any]:
    """denoising.png: a row a sample, time from left to right (all points in one plot a time); denoising.gif: as they move."""
    model, options, labels = context.model, context.options, context.drawn_labels(context.n)

    def draw(variables, keys, labels):
        x = model.trajectory(variables, keys, labels, frames=FRAMES, **options)
        return jnp.moveaxis(x if context.points else images.to_uint8(x), 0, 1)

    x = np.moveaxis(context.map(draw, context.n, labels), 1, 0)
    shown = np.unique(np.linspace(0, len(x) - 1, min(STRIP_FRAMES, len(x))).round().astype(int))
    if context.points:
        frames = np.stack([scatter(frame, box_of(context.dataset), PLOT, labels) for frame in x])
        strip = images.tiled(frames[shown], len(shown))
    else:
        strip = grid_of_rows(np.moveaxis(x[shown], 0, 1))
        frames = np.stack([picture(context.dataset, frame, labels) for frame in x])
    images.save_png(context.out / "denoising.png", strip)
    images.save_gif(context.out / "denoising.gif", frames)
    return {"pictures": ["denoising.png", "denoising.gif"]}


def _grid(tiles: np.ndarray, columns: int | None = None) -> np.ndarray:
    return images.tiled(tiles, columns, scale=math.ceil(TILE / min(tiles.shape[1:3])))


def grid_of_rows(rows: np.ndarray) -> np.ndarray:
    """[row, column, H, W, C] as a grid."""
    return _grid(rows.reshape(-1, *rows.shape[2:]), columns=rows.shape[1])
