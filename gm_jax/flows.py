"""What normalizing flows share: from a bijector between data and N(0, I) to a `Model`.

  log p(x) = log N(f(x); 0, I) + log |det df/dx|                                       of points: exact, in nats

An image of 8-bit levels has no density. With u uniform in [0, 1) in each of its D numbers (Uria et al. 2013; Theis et al. 2016,
"A note on the evaluation of generative models", eq. 3 to 6), y = (levels + u) / 256 and the flow's density p of y,

  log P(image) = log E_u[p(y)] - D log 256  >=  E_u[log p(y)] - D log 256              of images: a bound (Jensen)

`docs/likelihood.md` says more.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, UInt8

from gm_jax.bijectors import Bijector
from gm_jax.conditioning import check_labels, draw_labels, one_hot
from gm_jax.core import Batch, Key, Labels, Likelihood, Model, Objective, PyTree, Variables, streams
from gm_jax.densities import gaussian_log_prob, marginal_over_classes
from gm_jax.errors import InputError
from gm_jax.images import to_uint8
from gm_jax.settings import Count

LEVELS = 256


def dequantize(keys: Key, images: UInt8[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
    """(levels + u) / 256 in [0, 1], u uniform in [0, 1), one key an image."""
    u = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
    return (images + u) / LEVELS


def to_unit(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Images in [-1, 1] to [0, 1], so that a level is in the middle of its cell: what `dequantize` gives on average."""
    return (127.5 * (x + 1) + 0.5) / LEVELS


def from_unit(y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The inverse of `to_unit`."""
    return (LEVELS * y - 0.5) / 127.5 - 1


def log_prob(
    flow: Bijector, params: PyTree, x: Float[Array, "batch *shape"], condition: Float[Array, "batch size"] | None = None
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """log N(f(x); 0, I) and log |det df/dx|, in nats, whose sum is log p(x)."""
    z, log_det = flow.forward(params, x, condition)
    return gaussian_log_prob(z.reshape(len(z), -1), 0.0, 1.0), log_det


def flow_model(
    name: str,
    flow: Bijector,
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    *,
    nfe: int = 1,
) -> Model:
    """The `Model` of a flow that takes images in [0, 1], or points as they are, to z [batch, dim].

    nfe: network evaluations a sample takes, one after the other. num_classes: of a flow whose condition is the one-hot label.

    `encode` takes the middle of each level's cell. `decode` and `sample` give points, or images in [-1, 1]. Option of sampling:
    `temperature` (1.0), the standard deviation of z. Of images the likelihood "dequantized" is a bound; its option `samples`
    (1) is the number of draws of u, log E_u[p] being estimated by their mean (Burda et al. 2015): more are tighter.
    """
    images, dims = len(image_shape) == 3, math.prod(image_shape)

    def told(labels: Labels | None) -> Array | None:
        return None if num_classes is None else one_hot(labels, len(labels), num_classes)

    def known(labels: Labels | None) -> Array | None:
        check_labels(labels, num_classes)
        if num_classes is not None and labels is None:
            raise InputError("this flow encodes and decodes for a class: give labels")
        return told(labels)

    def data_of(batch: Batch) -> Array:
        return dequantize(*streams(batch.keys, "dequantize"), to_uint8(batch.x)) if images else batch.x

    def init(key: Key, batch: Batch) -> Variables:
        return Variables(flow.init(key, data_of(batch), told(batch.labels)))

    def loss(params, state, key, batch: Batch, *, step, train):
        log_prior, log_det = log_prob(flow, params, data_of(batch), told(batch.labels))
        nll = -(log_prior + log_det).mean() + (dims * math.log(LEVELS) if images else 0.0)
        metrics = {"nll": nll, "log_prior": log_prior.mean(), "log_det": log_det.mean()}
        return nll, (state, metrics | ({"bits_per_dim": nll / (dims * math.log(2))} if images else {}))

    def encode(variables: Variables, keys: Key, x, labels=None):
        return flow.forward(variables.params, to_unit(x) if images else x, known(labels))[0].reshape(len(x), -1)

    def decode(variables: Variables, keys: Key, z, labels=None):
        x = flow.inverse(variables.params, z, known(labels))
        return jnp.clip(from_unit(x), -1, 1) if images else x

    def sample(variables: Variables, keys: Key, labels=None, *, temperature: float = 1.0):
        _check_temperature(temperature)
        check_labels(labels, num_classes)
        z_keys, label_keys = streams(keys, "latent", "labels")
        if num_classes is not None and labels is None:
            labels = draw_labels(label_keys, num_classes)
        z = jax.vmap(lambda key: jax.random.normal(key, (dims,)))(z_keys)
        return decode(variables, keys, temperature * z, labels)

    def evaluations(temperature: float = 1.0) -> int:
        _check_temperature(temperature)
        return nfe

    return Model(
        init=init,
        objectives=(Objective(name, loss),),
        sample=sample,
        nfe=evaluations,
        encode=encode,
        decode=decode,
        num_classes=num_classes,
        likelihoods=(_dequantized(flow, told, num_classes) if images else _exact(flow, told, num_classes),),
    )


def _exact(flow: Bijector, told: Callable, num_classes: int | None) -> Likelihood:
    def nats(variables: Variables, keys: Key, points, labels=None):
        check_labels(labels, num_classes)

        def given(labels):
            return -sum(log_prob(flow, variables.params, points.astype(jnp.float32), told(labels)))

        return _marginal(given, len(points), labels, num_classes)

    return Likelihood("exact", "exact", nats)


def _dequantized(flow: Bijector, told: Callable, num_classes: int | None) -> Likelihood:
    def nats(variables: Variables, keys: Key, images, labels=None, *, samples: Count = 1):
        check_labels(labels, num_classes)
        dims = math.prod(images.shape[1:])

        def given(labels):
            def log_weight(k):
                draw_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, k)
                return sum(log_prob(flow, variables.params, dequantize(draw_keys, images), told(labels)))

            log_weights = jax.lax.map(log_weight, jnp.arange(samples))
            return math.log(samples) - logsumexp(log_weights, axis=0) + dims * math.log(LEVELS)

        return _marginal(given, len(images), labels, num_classes)

    return Likelihood("dequantized", "bound", nats)


def _marginal(given: Callable, batch: int, labels: Labels | None, num_classes: int | None) -> Float[Array, " batch"]:
    """Of a conditional flow without labels -log of the mean of p(x|y) over all classes, of which the weights are unbiased."""
    return given(labels) if num_classes is None or labels is not None else marginal_over_classes(given, batch, num_classes)


def _check_temperature(temperature: float) -> None:
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature={temperature} must be a number of at least 0")
