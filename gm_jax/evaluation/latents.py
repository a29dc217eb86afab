"""The tasks that look at the latents of models without an encoder: walks, truncation, mixtures of styles."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax import images
from gm_jax.core import Latent, streams
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.pictures import grid_of_rows

STEPS = 10  # of a walk, ends included
BOUNDS = (0.3, 0.5, 0.7, 1.0, None)  # of truncation, from the typical to the unusual


def has_latents(context: Context) -> bool:
    return bool(context.model.latents)


def has_layers(context: Context) -> bool:
    return any(latent.layers for latent in context.model.latents)


def has_truncation(context: Context) -> bool:
    return "truncation" in inspect.signature(context.model.sample).parameters


def walk(context: Context) -> dict[str, Any]:
    """walk_NAME.png for each space of latents: a row a pair of samples, with what lies between them; pairs are of one class."""
    files = []
    for latent in context.model.latents:
        draw = lambda variables, keys, labels, latent=latent: _between(latent, variables, keys, labels)  # noqa: E731
        rows = context.map(draw, context.n, context.drawn_labels(context.n))
        files.append(f"walk_{latent.name}.png")
        images.save_png(context.out / files[-1], grid_of_rows(rows))
    return {"pictures": files}


def _between(latent: Latent, variables, keys, labels):
    """[n, step, h, w, c]: from one latent of each key to another."""
    first, second, noise = streams(keys, "first", "second", "noise")
    a, b = (latent.draw(variables, key, labels) for key in (first, second))
    at = lambda weight: images.to_uint8(latent.decode(variables, noise, latent.between(a, b, weight), labels))  # noqa: E731
    return jnp.moveaxis(jax.lax.map(at, jnp.linspace(0, 1, STEPS)), 0, 1)


def truncation(context: Context) -> dict[str, Any]:
    """truncation.png: n columns of samples, a row for each of BOUNDS, the last without."""
    labels = context.drawn_labels(context.n)

    def draw(variables, keys, labels, bound):
        return images.to_uint8(context.model.sample(variables, keys, labels, **{**context.options, "truncation": bound}))

    rows = [context.map(lambda *args, bound=bound: draw(*args, bound), context.n, labels) for bound in BOUNDS]
    images.save_png(context.out / "truncation.png", grid_of_rows(np.stack(rows)))
    return {"pictures": ["truncation.png"]}


def style_mixing(context: Context) -> dict[str, Any]:
    """style_mixing.png: n samples in the first column and n in the first row; inside, the coarser half of the layers is that of
    the sample on the left, the other that of the sample on top (Karras et al. 2019, section 3.1). Classes are the left's.
    """
    latent = next(latent for latent in context.model.latents if latent.layers)
    n, labels = context.n, context.drawn_labels(context.n)

    def drawn(name):
        draw = lambda variables, keys, labels: latent.draw(variables, streams(keys, name)[0], labels)  # noqa: E731
        return context.map(draw, n, labels)

    def decoded(w, labels):
        decode = lambda variables, keys, w, labels: images.to_uint8(latent.decode(variables, keys, w, labels))  # noqa: E731
        return context.map(decode, len(w), w, labels)

    left, top = drawn("left"), drawn("top")
    coarse = left.shape[1] // 2
    mixed = np.concatenate([np.repeat(left, n, axis=0)[:, :coarse], np.tile(top, (n, 1, 1))[:, coarse:]], axis=1)
    inside = decoded(mixed, None if labels is None else np.repeat(labels, n))
    head, side = decoded(top, labels), decoded(left, labels)
    corner = np.full_like(head[:1], 255)
    rows = [np.concatenate([corner, head])]
    rows += [np.concatenate([side[i : i + 1], inside[i * n : (i + 1) * n]]) for i in range(n)]
    images.save_png(context.out / "style_mixing.png", grid_of_rows(np.stack(rows)))
    return {"pictures": ["style_mixing.png"]}
