"""Augmentations of what a critic sees, real and generated images alike: DiffAugment and ADA.

Both are functions (keys, x, p) -> x' that have gradients in x, so that they stand between generator and critic. Each image is
altered by its own key alone.

  DiffAugment  Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training", section 4
  ADA          Karras et al. 2020, "Training generative adversarial networks with limited data", appendix B: the set "bgc",
               whose members are each made with the probability p, which follows how far the critic overfits
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gm_jax.augment import Geometry, transform
from gm_jax.core import Images, Key, streams
from gm_jax.errors import InputError

Probability = float | Float[Array, ""]

LUMA = np.ones(3) / np.sqrt(3)  # the grey axis among colours
ON_LUMA = np.outer(LUMA, LUMA)
SHIFT = 0.125  # of the image's size, at most
BRIGHTNESS_STD, CONTRAST_STD, SATURATION_STD = 0.2, 0.5, 1.0  # the latter two of binary logarithms


# --- ADA ----------------------------------------------------------------------------------------------------------------------


def bgc(keys: Key, x: Images, p: Probability) -> Images:
    """Pixel blitting, then geometric, then colour transformations, each made with probability p. At p = 0 nothing is done."""
    return _blit_geometric_color(keys, x, p, p)


def bgc_cutout(keys: Key, x: Images, p: Probability) -> Images:
    """The same with half as many of the colour transformations, and at last a rectangle of zeros (Huang et al. 2024)."""

    def sometimes(key, image):
        return _sometimes(key, p, lambda key: cutout(key, image), image)

    return jax.vmap(sometimes)(streams(keys, "cutout")[0], _blit_geometric_color(keys, x, p, p / 2))


def _blit_geometric_color(keys, x, p, p_color):
    blit_keys, geometric_keys, color_keys = streams(keys, "blit", "geometric", "color")
    return color(color_keys, geometric(geometric_keys, blit(blit_keys, x, p), p), p_color)


def blit(keys: Key, x: Images, p: Probability) -> Images:
    """Flips, turns by quarters, shifts by whole pixels of up to an eighth: the pixels stay what they are, mirrored at the edge.

    Images that are not square are turned by halves alone.
    """
    height, width = x.shape[1:3]
    square = height == width

    def one(key, image):
        flip_key, turn_key, shift_key = streams(key, "flip", "turn", "shift")
        flip = _sometimes(flip_key, p, lambda key: jax.random.randint(key, (), 0, 2), 0)
        turn = _sometimes(turn_key, p, lambda key: jax.random.randint(key, (), 0, 4 if square else 2), 0)
        image = jnp.where(flip == 1, image[:, ::-1], image)
        image = jax.lax.switch(turn, [partial(jnp.rot90, k=k) for k in (range(4) if square else (0, 2))], image)
        shift = _sometimes(shift_key, p, lambda key: jax.random.uniform(key, (2,), minval=-SHIFT, maxval=SHIFT), jnp.zeros(2))
        for axis, size in enumerate((height, width)):
            image = jnp.take(image, _mirrored(jnp.arange(size) - jnp.round(shift[axis] * size).astype(int), size), axis=axis)
        return image

    return jax.vmap(one)(keys, x)


def geometric(keys: Key, x: Images, p: Probability) -> Images:
    """Scaling, a rotation before and one after stretching, and shifts between pixels. A rotation is made with 1 - sqrt(1 - p),
    so that one of the two is with p."""

    def one(key):
        scale, before, stretch, after, shift = streams(key, "scale", "before", "stretch", "after", "shift")
        turn = partial(_sometimes, p=1 - jnp.sqrt(1 - jnp.asarray(p, jnp.float32)), otherwise=0.0)
        angle = lambda key: jax.random.uniform(key, minval=-jnp.pi, maxval=jnp.pi)  # noqa: E731
        first, last = turn(before, draw=angle), turn(after, draw=angle)
        number = lambda key: _sometimes(key, p, jax.random.normal, 0.0)  # noqa: E731
        shifts = _sometimes(shift, p, lambda key: jax.random.normal(key, (2,)), jnp.zeros(2))
        zero = jnp.zeros(())
        return Geometry(zero, zero, number(scale), first + last, number(stretch), last, *shifts)

    drawn = jax.vmap(one)(keys)
    altered = jnp.stack([abs(value) for value in drawn]).sum(0) > 0
    return jnp.where(altered[:, None, None, None], transform(x, drawn), x)


def color(keys: Key, x: Images, p: Probability) -> Images:
    """Brightness, contrast, inversion of luma, hue and saturation; of grey images what of these makes sense.

    Raises InputError for images of other than one or three channels.
    """
    channels = x.shape[-1]
    if channels not in (1, 3):
        raise InputError(f"colours are of grey or RGB images, not of {channels} channels; choose another augmentation")
    matrix, offset = jax.vmap(lambda key: color_matrix(key, p))(keys)
    if channels == 1:
        matrix, offset = matrix.sum(axis=2, keepdims=True).mean(axis=1, keepdims=True), offset.mean(axis=1, keepdims=True)
    return jnp.einsum("bij,bhwj->bhwi", matrix, x) + offset[:, None, None, :]


def color_matrix(key: Key, p: Probability) -> tuple[Float[Array, "3 3"], Float[Array, "3"]]:
    """What is done to a colour c: matrix c + offset."""
    brightness, contrast, invert, hue, saturation = streams(key, "brightness", "contrast", "luma", "hue", "saturation")
    eye, normal = jnp.eye(3), jax.random.normal
    offset = _sometimes(brightness, p, lambda key: BRIGHTNESS_STD * normal(key), 0.0) * jnp.ones(3)
    scale = _sometimes(contrast, p, lambda key: 2.0 ** (CONTRAST_STD * normal(key)), 1.0)
    inverted = _sometimes(invert, p, lambda key: jax.random.randint(key, (), 0, 2), 0)
    flip = eye - 2 * ON_LUMA * inverted
    turn = _about_luma(_sometimes(hue, p, lambda key: jax.random.uniform(key, minval=-jnp.pi, maxval=jnp.pi), 0.0))
    vivid = _sometimes(saturation, p, lambda key: 2.0 ** (SATURATION_STD * normal(key)), 1.0)
    after = (ON_LUMA + (eye - ON_LUMA) * vivid) @ turn @ flip * scale
    return after, after @ offset


def _about_luma(angle):
    """The rotation about the grey axis (Rodrigues' formula)."""
    x, y, z = LUMA
    cross = jnp.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return ON_LUMA + jnp.cos(angle) * (jnp.eye(3) - ON_LUMA) + jnp.sin(angle) * cross


def adapted(p: Float[Array, ""], overfitting: Array, images: Array, target: float, images_to_full: float) -> Float[Array, ""]:
    """p after `images` more images of which E[sign D(real)] was `overfitting`: one step towards more where that is above
    `target`, towards less where below, so small that it takes `images_to_full` to get from 0 to 1; never below 0 nor above 1.
    """
    return jnp.clip(p + jnp.sign(overfitting - target) * images / images_to_full, 0.0, 1.0)


# --- DiffAugment --------------------------------------------------------------------------------------------------------------


def brightness(key: Key, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Plus a number between -1/2 and 1/2."""
    return x + jax.random.uniform(key) - 0.5


def saturation(key: Key, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The difference to the mean over channels, times a number between 0 and 2."""
    mean = x.mean(axis=2, keepdims=True)
    return (x - mean) * 2 * jax.random.uniform(key) + mean


def contrast(key: Key, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The difference to the mean of the image, times a number between 1/2 and 3/2."""
    return (x - x.mean()) * (jax.random.uniform(key) + 0.5) + x.mean()


def translation(key: Key, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Moved by whole pixels, up to an eighth of either side; zeros come in."""
    for axis, (name, size) in enumerate(zip(("down", "right"), x.shape[:2], strict=True)):
        most = int(size * SHIFT + 0.5)
        place = jnp.arange(size) - jax.random.randint(streams(key, name)[0], (), -most, most + 1)
        inside = ((place >= 0) & (place < size)).reshape(-1, *(1,) * (2 - axis))
        x = jnp.where(inside, jnp.take(x, jnp.clip(place, 0, size - 1), axis=axis), 0.0)
    return x


def cutout(key: Key, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Zeros in a rectangle of half the height and width, whose centre lies anywhere in the image."""
    inside = []
    for name, size in zip(("down", "right"), x.shape[:2], strict=True):
        half = int(size * 0.5 + 0.5)
        first = jax.random.randint(streams(key, name)[0], (), 0, size + (1 - half % 2)) - half // 2
        inside.append((jnp.arange(size) >= first) & (jnp.arange(size) < first + half))
    return jnp.where(inside[0][:, None, None] & inside[1][None, :, None], 0.0, x)


DIFFERENTIABLE: dict[str, tuple[Callable, ...]] = {
    "color": (brightness, saturation, contrast),
    "translation": (translation,),
    "cutout": (cutout,),
}


def diff_augment(keys: Key, x: Images, policy: tuple[str, ...] = ("color", "translation", "cutout")) -> Images:
    """DiffAugment: all of a policy, at every image."""
    for name in policy:
        for alter in DIFFERENTIABLE[name]:
            x = jax.vmap(alter)(streams(keys, alter.__name__)[0], x)
    return x


# --- parts --------------------------------------------------------------------------------------------------------------------


def _sometimes(key, p, draw, otherwise):
    """A draw with probability p."""
    switch, value = streams(key, "switch", "value")
    return jnp.where(jax.random.bernoulli(switch, p), draw(value), otherwise)


def _mirrored(place, size):
    """Places outside an image of `size` pixels, mirrored at its first and its last pixel."""
    period = max(2 * size - 2, 1)
    place = jnp.abs(place) % period
    return jnp.where(place < size, place, period - place)
