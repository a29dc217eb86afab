"""Guidance: from denoisers to a denoiser. Samplers do not know of it."""

from collections.abc import Callable

import jax.numpy as jnp

from gm_jax.core import Labels
from gm_jax.diffusion.paths import Denoiser

NO_LABEL = -1


def classifier_free(denoiser_of: Callable[[Labels | None], Denoiser], labels: Labels | None, scale: float) -> Denoiser:
    """D(x) + scale (D(x, label) - D(x)): 1 is no guidance (Ho & Salimans 2022, eq. 6, whose w is scale - 1).

    `denoiser_of(labels)` takes -1 for "no label". Both are evaluated in one call on twice the images.
    """
    if scale == 1.0 or labels is None:
        return denoiser_of(labels)
    both = denoiser_of(jnp.concatenate([labels, jnp.full_like(labels, NO_LABEL)]))

    def guided(x_t, t):
        t = jnp.broadcast_to(t, x_t.shape[:1])
        with_label, without = jnp.split(both(jnp.concatenate([x_t, x_t]), jnp.concatenate([t, t])), 2)
        return without + scale * (with_label - without)

    return guided
