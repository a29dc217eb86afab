"""Networks that give each pixel of an image its probability given those before it, by name, and how they draw images.

Pixels come in reading order, p(x) = prod_i p(x_i | x_1 .. x_{i-1}). The keyword arguments of a function here are the fields of
a section `network` of a config.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from gm_jax.core import Key, PyTree
from gm_jax.densities import draw_logistic_mixture, logistic_mixture, logistic_mixture_log_prob, mixture_size
from gm_jax.errors import InputError, choose
from gm_jax.images import to_float
from gm_jax.nets import gated_pixelcnn, pixelcnn_pp, pixelcnn_pp_rows
from gm_jax.settings import Count, Decay, Whole, checked

INIT_IMAGES = 16  # that an initialisation looks at, as in the authors' code of PixelCNN++


class PixelNetwork(NamedTuple):
    """A network as pure functions. Its answer at a pixel says how that one is distributed, given those before it."""

    init: Callable[..., PyTree]  # (key, images, labels=None) -> params
    answer: Callable[..., Array]  # (params, images, labels=None, *, train=False, key=None) -> [batch, height, width, size]
    log_prob: Callable[..., Array]  # (params, answer, images) -> [batch, height, width], nats
    draw: Callable[..., Array]  # (params, keys, answer [batch, size], temperature) -> levels [batch, channel]
    # (params, n, labels=None) -> (memory, draw_row), where draw_row(memory, phase, pixel) -> (memory, levels [n, width, c])
    # with pixel(column, answer) -> levels [n, c], and with the number of the row modulo `period` as phase
    begin: Callable[..., tuple[PyTree, Callable]]
    period: int = 1


@checked
def plus_plus(
    image_shape: tuple[int, ...],
    num_classes: int | None,
    dtype: jnp.dtype,
    *,
    channels: Count = 160,
    num_layers: Count = 5,
    halvings: Whole = 2,
    components: Count = 10,
    dropout: Decay = 0.5,
) -> PixelNetwork:
    """PixelCNN++ (`nets.pixelcnn_pp`), by default that of the paper.

    channels, num_layers: of each stream, and its residual layers at a resolution. components: logistics in the mixture of a
    pixel. Scales and biases are initialised on 16 images.
    """
    height, width, image_channels = image_shape
    if height % 2**halvings or width % 2**halvings:
        raise InputError(f"images of {height}x{width} cannot be halved {halvings} times; take fewer halvings")
    size = mixture_size(image_channels, components)
    net = pixelcnn_pp.PixelCNNPP(size, channels, num_layers, halvings, num_classes, dropout, dtype)

    def init(key, images, labels=None):
        labels = None if labels is None else labels[:INIT_IMAGES]
        return pixelcnn_pp.init(net, key, to_float(images[:INIT_IMAGES]), labels)

    def answer(params, images, labels=None, *, train=False, key=None):
        dropped = train and dropout > 0 and key is not None
        return net.apply({"params": params}, to_float(images), labels, dropped, rngs={"dropout": key} if dropped else {})

    def log_prob(params, answer, images):
        return logistic_mixture_log_prob(images, logistic_mixture(answer, image_channels))

    def draw(params, keys, answer, temperature):
        return draw_logistic_mixture(keys, logistic_mixture(answer, image_channels), temperature)

    def begin(params, n, labels=None):
        weights = pixelcnn_pp_rows.folded(params, dtype)
        row = partial(pixelcnn_pp_rows.draw_row, net, weights, labels=labels)
        return pixelcnn_pp_rows.start(net, n, width, image_channels), row

    return PixelNetwork(init, answer, log_prob, draw, begin, 2**halvings)


@checked
def gated(
    image_shape: tuple[int, ...],
    num_classes: int | None,
    dtype: jnp.dtype,
    *,
    channels: Count = 128,
    num_layers: Count = 15,
    reach: Count = 1,
) -> PixelNetwork:
    """Gated PixelCNN with 256-way softmaxes (`nets.gated_pixelcnn`). reach: 1 for 3x3 kernels, 2 for 5x5 ones."""
    _, width, image_channels = image_shape
    sizes = (gated_pixelcnn.LEVELS, channels, num_layers, reach, num_classes, dtype, image_channels)
    net = gated_pixelcnn.GatedImagePixelCNN(*sizes)

    def init(key, images, labels=None):
        labels = None if labels is None else labels[:1]
        return net.init(key, images[:1], labels, method="init_all")["params"]

    def answer(params, images, labels=None, *, train=False, key=None):
        return net.apply({"params": params}, to_float(images), labels)

    def log_prob(params, answer, images):
        logits = net.apply({"params": params}, answer, images, method="logits_of")
        return gated_pixelcnn.level_log_prob(logits, images)

    def begin(params, n, labels=None):
        def draw_row(memory, phase, pixel):
            return gated_pixelcnn.draw_row(net, params, memory, pixel, labels)

        return gated_pixelcnn.start(net, n, width), draw_row

    return PixelNetwork(init, answer, log_prob, partial(gated_pixelcnn.draw_levels, net), begin)


NETWORKS = {"gated": gated, "pixelcnn_pp": plus_plus}


def find(name: str) -> Callable[..., PixelNetwork]:
    """The function of that name. Raises InputError for an unknown one."""
    return choose(NETWORKS, name, "network")


def pixel_network(
    settings: Mapping[str, Any], image_shape: tuple[int, ...], num_classes: int | None = None, dtype: Any = jnp.float32
) -> PixelNetwork:
    """What a section {"name": "gated", "channels": 64, ...} describes.

    Raises InputError for an unknown name, for settings that it has not, and for all but images of 1 or 3 channels.
    """
    given = dict(settings)
    function = find(given.pop("name"))
    if len(image_shape) != 3 or image_shape[-1] not in (1, 3):
        raise InputError(f"network {settings['name']!r} is for grey or RGB images, not for data of the shape {image_shape}")
    try:
        return function(tuple(image_shape), num_classes, dtype, **given)
    except TypeError as error:
        raise InputError(f"network {settings['name']!r}: {str(error).rpartition('() ')[2]}") from error


# --- drawing ------------------------------------------------------------------------------------------------------------------


def fill(
    network: PixelNetwork,
    params: PyTree,
    keys: Key,
    images: UInt8[Array, "batch height width channel"],
    known: Bool[Array, "height width"],
    labels: Int[Array, " batch"] | None = None,
    temperature: float = 1.0,
) -> UInt8[Array, "batch height width channel"]:
    """`images` where they are `known`, and drawn elsewhere, one image a key, pixel by pixel. Computes every feature once.

    A pixel is drawn given those before it, so that of the known ones it heeds only these.
    """
    n, height, *_ = images.shape
    memory, draw_row = network.begin(params, n, labels)
    pixel = partial(_pixel, network, params, keys, images, known, temperature)

    def rows(memory, block):
        drawn = []
        for phase in range(network.period):
            memory, levels = draw_row(memory, phase, partial(pixel, block * network.period + phase))
            drawn.append(levels)
        return memory, jnp.stack(drawn)

    _, drawn = jax.lax.scan(rows, memory, jnp.arange(height // network.period))
    return jnp.moveaxis(drawn.reshape(height, n, *images.shape[2:]), 0, 1)


def fill_naive(
    network: PixelNetwork,
    params: PyTree,
    keys: Key,
    images: UInt8[Array, "batch height width channel"],
    known: Bool[Array, "height width"],
    labels: Int[Array, " batch"] | None = None,
    temperature: float = 1.0,
) -> UInt8[Array, "batch height width channel"]:
    """What `fill` gives, by one pass over the whole image for every pixel: the definition that it is tested against."""
    _, height, width, _ = images.shape

    def position(i, x):
        row, column = i // width, i % width
        answer = network.answer(params, x, labels)[:, row, column]
        levels = _pixel(network, params, keys, images, known, temperature, row, column, answer)
        return x.at[:, row, column].set(levels)

    return jax.lax.fori_loop(0, height * width, position, jnp.zeros_like(images))


def _pixel(network, params, keys, images, known, temperature, row, column, answer: Float[Array, "batch size"]):
    """The levels at one place, a function of each image's key, the place and the answer alone."""
    position_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, row * images.shape[2] + column)
    drawn = network.draw(params, position_keys, answer, temperature)
    return jnp.where(known[row, column], images[:, row, column], drawn)
