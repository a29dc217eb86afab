"""A small convolutional classifier: no generative model, but a pair of eyes for judging them.

Its penultimate features stand in for Inception's on data that Inception was not made for (digits, MNIST), as Heusel et al. 2017
("GANs trained by a two time-scale update rule", section 4) and Salimans et al. 2016 ("Improved techniques for training GANs",
section 4) use Inception's. With features f(x) and class probabilities softmax(W f(x) + b) the loss is

  -log softmax(W f(x) + b)[label]        nats per image, batch mean.
"""

import flax.linen as nn
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from gm_jax.conditioning import check_labels
from gm_jax.core import Batch, Key, Labels, Model, Objective, Variables
from gm_jax.errors import InputError
from gm_jax.nets.resnet import Encoder, default_multipliers, lowest_grid
from gm_jax.settings import Count, Whole, checked


def cross_entropy(logits: Float[Array, "batch classes"], labels: Labels) -> Float[Array, " batch"]:
    """-log softmax(logits)[label], in nats; log(classes) for equal logits."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def logits_of(variables: Variables, features: Float[Array, "batch features"]) -> Float[Array, "batch classes"]:
    """What the last layer of a classifier makes of its features (`Model.encode`): unnormalised log-probabilities."""
    head = variables.params["head"]
    return features @ head["kernel"] + head["bias"]


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None,
    dtype: jnp.dtype = jnp.float32,
    *,
    features: Count = 64,
    channels: Count = 16,
    channel_multipliers: tuple[Count, ...] = (),
    num_blocks: Whole = 1,
) -> Model:
    """The classifier: the residual encoder of `nets.resnet` with group normalisation, swish, and a linear layer.

    features: how many numbers `encode` gives. channels, channel_multipliers, num_blocks: the width at the first halving, its
    multiple and the residual blocks at every halving; no multipliers: (1, 2, 4, 4, ...), halving down to 4x4.

    Its objective "classifier" reports `accuracy`, a fraction. `encode` is deterministic and gives the features, non-negative
    but for swish's dip to -0.28; `logits_of` the logits that belong to them. An untrained classifier finds all classes equally
    probable.

    Raises InputError for data without labels, for images that cannot be halved once per multiplier, and when asked to sample.
    """
    if num_classes is None:
        raise InputError("the classifier needs labels, which this data set has none of; choose labelled data")
    if len(image_shape) != 3:
        raise InputError(f"the classifier is for images, not for points of {image_shape[0]} numbers")
    multipliers = tuple(channel_multipliers or default_multipliers(image_shape))
    lowest_grid(image_shape, multipliers)
    encoder = Encoder(features, channels, multipliers, num_blocks, dtype)

    def init(key: Key, batch: Batch) -> Variables:
        head = {"kernel": jnp.zeros((features, num_classes)), "bias": jnp.zeros(num_classes)}
        return Variables({"encoder": encoder.init(key, batch.x[:1])["params"], "head": head})

    def encode(variables: Variables, keys: Key, x, labels=None):
        del keys  # nothing is drawn
        check_labels(labels, None)
        return nn.swish(encoder.apply({"params": variables.params["encoder"]}, x))

    def loss(params, state, key, batch, *, step, train):
        del key, step, train  # the same always
        variables = Variables(params, state)
        logits = logits_of(variables, encode(variables, batch.keys, batch.x))
        accuracy = (logits.argmax(1) == batch.labels).mean(dtype=jnp.float32)
        return cross_entropy(logits, batch.labels).mean(), (state, {"accuracy": accuracy})

    return Model(init=init, objectives=(Objective("classifier", loss),), sample=_no_samples, encode=encode)


def _no_samples(variables: Variables, keys: Key, labels=None, **options):
    raise InputError("a classifier does not sample; evaluate a generative model, and give the classifier as eval.extractor")
