"""PixelCNN++ and gated PixelCNN: images pixel by pixel, with exact likelihoods.

  PixelCNN++      Salimans et al. 2017, "PixelCNN++: Improving the PixelCNN with discretized logistic mixture likelihood and
                  other modifications"                                                        nets.pixelcnn_pp; densities
  gated PixelCNN  van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders"      nets.gated_pixelcnn

With the pixels x_1 .. x_N in reading order,

  log p(x | y) = sum_i log p(x_i | x_1 .. x_{i-1}, y)        nats per image; the loss is its negative, the mean over the batch.

One pass of the network gives all terms. A pixel is three uint8 levels, or one: in PixelCNN++ its distribution is a mixture of
discretized logistics (eq. 2, 3), in gated PixelCNN a softmax over 256 levels for each sub-pixel.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from gm_jax.conditioning import check_labels, classes_of, draw_labels
from gm_jax.core import Batch, Key, Likelihood, Model, Objective, PyTree, Variables, streams
from gm_jax.densities import marginal_over_classes
from gm_jax.errors import InputError
from gm_jax.images import to_float, to_uint8
from gm_jax.nets.autoregressive import PixelNetwork, fill, pixel_network
from gm_jax.settings import Section, checked

NOTHING_DRAWN = -1.0  # the colour of what is not drawn yet, in a trajectory


def negative_log_likelihood(
    network: PixelNetwork,
    params: PyTree,
    images: UInt8[Array, "batch height width channel"],
    labels: Int[Array, " batch"] | None = None,
    *,
    train: bool = False,
    key: Key | None = None,
    counted: Bool[np.ndarray, "height width"] | None = None,
) -> Float[Array, " batch"]:
    """-log p(x | y) in nats per image. counted: the pixels whose terms count, by default all."""
    answer = network.answer(params, images, labels, train=train, key=key)
    log_probs = network.log_prob(params, answer, images)
    return -jnp.where(True if counted is None else counted, log_probs, 0).sum((1, 2))


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    *,
    network: Section("pixel_network") = {"name": "pixelcnn_pp"},  # noqa: B006 (read only)
    class_conditional: bool = False,
) -> Model:
    """The model of grey or RGB images of `image_shape`; by default PixelCNN++, of 53,659,080 parameters for RGB.

    network: see `nets.autoregressive`. class_conditional: every layer is told the label. Without labels a sample then draws
    one, the likelihood takes the mean over all classes, which count as equally frequent, and a completion draws one given what
    is known of the image.

    Sampling option: `temperature` (1.0), which the logits of a softmax are divided by; in a mixture of logistics those of its
    components, and their scales are multiplied. `nfe` counts the pixels: each asks for one answer of the network. A trajectory
    shows the image as it fills up. `complete` takes known pixels that come first in reading order, such as upper rows.

    Raises InputError for points, for channels other than 1 or 3, for images that the network cannot halve, for labels unless
    class_conditional, and for class_conditional without labels in the data.
    """
    classes = classes_of(num_classes, class_conditional)
    net = pixel_network(network, image_shape, classes, dtype)
    height, width, _ = image_shape
    dims = math.prod(image_shape)

    def init(key: Key, batch: Batch) -> Variables:
        return Variables(net.init(key, to_uint8(batch.x), None if classes is None else batch.labels))

    def loss(params, state, key, batch: Batch, *, step, train):
        labels = None if classes is None else batch.labels
        nats = negative_log_likelihood(net, params, to_uint8(batch.x), labels, train=train, key=key).mean()
        return nats, (state, {"nll": nats, "bits_per_dim": nats / (dims * math.log(2))})

    def draw(variables: Variables, keys: Key, images, known, labels, temperature: float):
        return to_float(fill(net, variables.params, keys, images, known, labels, temperature))

    def sample(variables: Variables, keys: Key, labels=None, *, temperature: float = 1.0):
        _check_temperature(temperature)
        check_labels(labels, classes)
        label_keys, pixel_keys = streams(keys, "labels", "pixels")
        if classes is not None and labels is None:
            labels = draw_labels(label_keys, classes)
        blank = jnp.zeros((len(keys), *image_shape), jnp.uint8)
        return draw(variables, pixel_keys, blank, jnp.zeros((height, width), bool), labels, temperature)

    def trajectory(variables: Variables, keys: Key, labels=None, *, frames: int | None, temperature: float = 1.0):
        x = sample(variables, keys, labels, temperature=temperature)
        return x if frames is None else filling_up(x, frames)

    def nfe(temperature: float = 1.0) -> int:
        _check_temperature(temperature)
        return height * width

    def complete(variables: Variables, keys: Key, x, known, labels=None, *, temperature: float = 1.0):
        _check_temperature(temperature)
        check_labels(labels, classes)
        known, images = check_known(known, (height, width)), jnp.asarray(to_uint8(x))
        label_keys, pixel_keys = streams(keys, "labels", "pixels")
        if classes is not None and labels is None:
            labels = _labels_given(net, variables.params, label_keys, images, known, classes)
        drawn = draw(variables, pixel_keys, images, jnp.asarray(known), labels, temperature)
        return jnp.where(known[..., None], x, drawn)

    def nats(variables: Variables, keys: Key, images, labels=None):
        check_labels(labels, classes)

        def given(labels):
            return negative_log_likelihood(net, variables.params, jnp.asarray(images), labels)

        return given(labels) if classes is None or labels is not None else marginal_over_classes(given, len(images), classes)

    return Model(
        init=init,
        objectives=(Objective("pixelcnn", loss),),
        sample=sample,
        trajectory=trajectory,
        nfe=nfe,
        complete=complete,
        num_classes=classes,
        likelihoods=(Likelihood("exact", "exact", nats),),
    )


def filling_up(x: Float[Array, "batch height width channel"], frames: int) -> Float[Array, "frame batch height width channel"]:
    """An image as it is drawn, as frames at even distances, at most one a pixel: what comes later is black."""
    _, height, width, _ = x.shape
    drawn = jnp.linspace(0, height * width, min(frames, height * width) + 1)[1:].round()
    there = jnp.arange(height * width).reshape(height, width, 1) < drawn[:, None, None, None, None]
    return jnp.where(there, x, NOTHING_DRAWN)


def check_known(known: Bool[np.ndarray, "height width"], size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
    """Raises InputError for what is no array of truth values of this size, and where a known pixel follows an unknown one."""
    known = np.asarray(known)
    if known.shape != size or known.dtype != bool:
        raise InputError(f"known is an array of truth values {list(size)}, not {known.dtype} {list(known.shape)}")
    if np.any(np.diff(known.reshape(-1).astype(int)) > 0):
        raise InputError("pixels are drawn in reading order: those known must come before all others, as upper rows do")
    return known


def _labels_given(net: PixelNetwork, params: PyTree, keys: Key, images, known, classes: int):
    """Labels drawn from p(y | the known pixels)."""

    def nats(label):
        return negative_log_likelihood(net, params, images, jnp.full(len(images), label), counted=known)

    logits = -jax.lax.map(nats, jnp.arange(classes))
    return jax.vmap(jax.random.categorical)(keys, logits.T)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise InputError(f"temperature={temperature} must be above 0")
