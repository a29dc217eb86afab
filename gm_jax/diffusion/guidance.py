"""Guidance: from denoisers to a denoiser. Samplers do not know of it.

`inside(t)`, where it is given, says at which noise a denoiser is guided (Kynkäänniemi et al. 2024, "Applying guidance in a
limited interval"): elsewhere it is the plain one, at the price of that.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gm_jax.core import Labels
from gm_jax.diffusion.paths import Denoiser, Images, Path, Time, like

NO_LABEL = -1

Inside = Callable[[Time], Bool[Array, " *batch"]]


def noise_interval(path: Path, low: float, high: float) -> Inside:
    """low < sigma / alpha <= high. Raises ValueError unless 0 <= low < high."""
    if not 0 <= low < high:
        raise ValueError(f"guidance_interval ({low:g}, {high:g}) must be two noise levels sigma / alpha, 0 <= low < high")

    def inside(t):
        t = jnp.asarray(t)
        alpha, sigma = path.alpha(t), path.sigma(t)
        return (sigma > low * alpha) & (sigma <= high * alpha)

    return inside


def classifier_free(
    denoiser_of: Callable[[Labels | None], Denoiser], labels: Labels | None, scale: float, inside: Inside | None = None
) -> Denoiser:
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

    return _within(inside, guided, denoiser_of(labels) if inside else guided)


def autoguidance(good: Denoiser, bad: Denoiser, scale: float, inside: Inside | None = None) -> Denoiser:
    """bad + scale (good - bad), of one model and a worse version of it: 1 is no guidance (Karras et al. 2024, eq. 3)."""
    if scale == 1.0:
        return good

    def guided(x_t, t):
        worse = bad(x_t, t)
        return worse + scale * (good(x_t, t) - worse)

    return _within(inside, guided, good)


def classifier(
    path: Path,
    denoiser: Denoiser,
    log_prob: Callable[[Images, Time], Float[Array, " batch"]],
    scale: float,
    inside: Inside | None = None,
) -> Denoiser:
    """x0 + scale sigma^2 / alpha grad log p(y | x_t): 0 is no guidance, 1 Bayes' rule (Dhariwal & Nichol 2021, algorithm 2).

    log_prob: (x_t, t) -> log p(y | x_t) in nats, of a classifier that knows noise; example i depends on image i alone.
    """
    if scale == 0.0:
        return denoiser

    def guided(x_t, t):
        slope = jax.grad(lambda x: log_prob(x, t).sum())(x_t)
        return denoiser(x_t, t) + scale * like(path.sigma(t) ** 2 / path.alpha(t), x_t) * slope

    return _within(inside, guided, denoiser)


def _within(inside: Inside | None, guided: Denoiser, plain: Denoiser) -> Denoiser:
    if inside is None:
        return guided

    def denoiser(x_t, t):
        t = jnp.asarray(t)
        if not t.ndim:  # one time for all, as samplers ask: only one of the two is evaluated
            return jax.lax.cond(inside(t), guided, plain, x_t, t)
        return jnp.where(like(inside(t), x_t) > 0, guided(x_t, t), plain(x_t, t))

    return denoiser
