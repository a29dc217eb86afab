"""Augmentations: pure functions (keys, x, probability) -> (x', label), which losses call and networks are told of.

Each example is altered by its own key alone. A label is zero where nothing was done.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from gm_jax.core import Images, Key, streams

LABELS = 9  # numbers that tell of a geometric augmentation

SCALE_STD, STRETCH_STD = 0.2, 0.2  # of the binary logarithm
SHIFT_STD = 0.125  # of the image's size

# Daubechies' least asymmetric orthonormal lowpass filter with six vanishing moments ("sym6")
SYM6 = np.array(
    [
        0.015404109327027373,
        0.0034907120842174702,
        -0.11799011114819057,
        -0.048311742585633,
        0.4910559419267466,
        0.787641141030194,
        0.3379294217276218,
        -0.07263752278646252,
        -0.021060292512300564,
        0.04472490177066578,
        0.0017677118642428036,
        -0.007800708325034148,
    ]
)
MARGIN = len(SYM6) // 4  # pixels around the image that its filter reaches


class Geometry(NamedTuple):
    """What is done to each image, in this order. Zero is nothing."""

    flip_x: Float[Array, " batch"]  # 1: left and right change places
    flip_y: Float[Array, " batch"]  # 1: up and down
    scale: Float[Array, " batch"]  # larger by 2^(SCALE_STD scale)
    angle: Float[Array, " batch"]  # radians
    stretch: Float[Array, " batch"]  # wider by 2^(STRETCH_STD stretch) along an axis, and as much narrower across
    axis: Float[Array, " batch"]  # of the stretch, radians
    shift_x: Float[Array, " batch"]  # in units of SHIFT_STD widths
    shift_y: Float[Array, " batch"]  # of SHIFT_STD heights


def geometric(keys: Key, x: Images, probability: float = 0.12) -> tuple[Images, Float[Array, "batch 9"]]:
    """Flips, scaling, rotation, stretching and shifts of images, and the label that tells of them.

    Karras et al. 2022, appendix F.2 and table 6. A horizontal flip is a fair coin whatever the probability; each of the others
    is made with this one, a vertical flip with half of it.
    """
    drawn = draw_geometry(keys, probability)
    return transform(x, drawn), label(drawn)


def draw_geometry(keys: Key, probability: float) -> Geometry:
    """The draws of table 6, one for each key."""

    def one(key):
        names = ("flip", "flip y", "scale", "angle", "stretch", "axis", "shift")
        flip, flip_y, scale, angle, stretch, axis, shift = streams(key, *names)

        def sometimes(key, draw, share=probability):
            switch, value = streams(key, "switch", "value")
            return jnp.where(jax.random.bernoulli(switch, share), draw(value), 0.0)

        normal, turn = jax.random.normal, lambda key: jax.random.uniform(key, minval=-jnp.pi, maxval=jnp.pi)
        coin = lambda key: jax.random.bernoulli(key).astype(jnp.float32)  # noqa: E731
        shifts = sometimes(shift, lambda key: normal(key, (2,)))
        return Geometry(
            coin(flip),
            sometimes(flip_y, coin),
            sometimes(scale, normal),
            sometimes(angle, turn),
            sometimes(stretch, normal),
            sometimes(axis, turn, 0.5),
            *shifts,
        )

    return jax.vmap(one)(keys)


def label(done: Geometry) -> Float[Array, "batch 9"]:
    """What a network is told: numbers that are near when the images are."""
    turned = (jnp.cos(done.angle) - 1, jnp.sin(done.angle))
    stretched = (done.stretch * jnp.cos(done.axis), done.stretch * jnp.sin(done.axis))
    shifted = (done.shift_x, done.shift_y)
    return jnp.stack([done.flip_x, done.flip_y, done.scale, *turned, *stretched, *shifted], axis=1)


def transform(x: Images, done: Geometry) -> Images:
    """The images altered, with what lies outside mirrored in.

    An image is doubled in size by the wavelet's filter, looked up between pixels at the double resolution, and filtered down
    again, so that little is blurred; where nothing is done it stays as it is (Karras et al. 2020, "Training generative
    adversarial networks with limited data", appendix B).
    """
    height, width = x.shape[1:3]
    flip = lambda which, axis, x: jnp.where(which.reshape(-1, 1, 1, 1) > 0, jnp.flip(x, axis), x)  # noqa: E731
    x = flip(done.flip_y, 1, flip(done.flip_x, 2, x))
    large = jnp.einsum("ih,jw,bhwc->bcij", *(jnp.asarray(_upsampling(n), x.dtype) for n in (height, width)), x)
    rows, columns = places(done, height, width)
    look_up = lambda image, row, column: map_coordinates(image, (row, column), order=1)  # noqa: E731
    seen = jax.vmap(jax.vmap(look_up, (0, None, None)))(large, rows, columns)
    return jnp.einsum("hi,wj,bcij->bhwc", *(jnp.asarray(_downsampling(n), x.dtype) for n in (height, width)), seen)


def places(done: Geometry, height: int, width: int) -> tuple[Array, Array]:
    """Rows and columns, [b, i, j], at which the points of the altered image are found in the mirrored one, both doubled."""
    y, x = (0.5 * (np.arange(2 * (n + 2 * MARGIN)) + 1) - (n / 2 + MARGIN) for n in (height, width))
    move = lambda value: value[:, None, None]  # noqa: E731
    x = x[None, None, :] - move(done.shift_x) * SHIFT_STD * width
    y = y[None, :, None] - move(done.shift_y) * SHIFT_STD * height
    x, y = _rotated(x, y, move(done.axis))
    wider = 2 ** (STRETCH_STD * move(done.stretch))
    x, y = _rotated(x / wider, y * wider, move(done.angle - done.axis))
    larger = 2 ** (SCALE_STD * move(done.scale))
    return 2 * y / larger + 3 * height - 3, 2 * x / larger + 3 * width - 3


def _rotated(x, y, angle):
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def _upsampling(n: int) -> np.ndarray:
    """From n pixels to 2 (3n - 2) points: mirrored at the first and the last pixel, n - 1 pixels on, and doubled."""
    mirrored = np.pad(np.eye(n), [(n - 1, n - 1), (0, 0)], mode="reflect")
    spread = np.zeros((2 * len(mirrored) + len(SYM6), n))
    spread[6 : 6 + 2 * len(mirrored) : 2] = mirrored
    return np.stack([SYM6[::-1] @ spread[i : i + len(SYM6)] for i in range(2 * len(mirrored))])


def _downsampling(n: int) -> np.ndarray:
    """From 2 (n + 2 MARGIN) points to n pixels."""
    matrix = np.zeros((n, 2 * (n + 2 * MARGIN)))
    for i in range(n):
        matrix[i, 2 * i + 1 : 2 * i + 1 + len(SYM6)] = SYM6
    return matrix
