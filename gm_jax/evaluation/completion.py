"""Lower halves of test images, drawn given the upper ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax import images
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.pictures import grid_of_rows

COMPLETIONS = 8  # of each image


def completion(context: Context) -> dict[str, Any]:
    """completion.png: a row a test image, for n: the image, its upper half, and 8 images that the model makes of that half.

    Of a conditional model each is drawn for the image's own label. The sampling options of `model.complete` are those of
    `model.sample`.
    """
    model, options = context.model, context.options
    x, labels = context.real("test", context.n)
    known = np.zeros(x.shape[1:3], bool)
    known[: len(known) // 2] = True

    def draw(variables, keys, originals, labels):
        originals = images.to_float(originals)

        def once(i):
            own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            return images.to_uint8(model.complete(variables, own, originals, known, labels, **options))

        return jnp.moveaxis(jax.lax.map(once, jnp.arange(COMPLETIONS)), 0, 1)

    drawn = context.map(draw, len(x), x, context.given_labels(labels))
    given = np.where(known[..., None], x, images.BACKGROUND).astype(np.uint8)
    rows = np.concatenate([x[:, None], given[:, None], drawn], axis=1)
    images.save_png(context.out / "completion.png", grid_of_rows(rows))
    return {"pictures": ["completion.png"]}
