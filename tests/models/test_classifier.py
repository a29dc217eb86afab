import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import log_softmax

from gm_jax.core import Batch
from gm_jax.errors import InputError
from gm_jax.models import classifier

SHAPE, CLASSES = (8, 8, 1), 3
make = partial(classifier.make, SHAPE, CLASSES, features=16, channels=8, num_blocks=1)


@pytest.fixture(scope="module")
def batch():
    """Three prototypes with noise, in unequal numbers."""
    labels = jnp.array([0, 0, 0, 0, 1, 1, 2, 2])
    prototypes = jnp.zeros((CLASSES, *SHAPE)).at[0, :4].set(0.5).at[1, :, :4].set(0.5).at[2, 4:].set(-0.5)
    noise = jax.random.uniform(jax.random.key(0), (8, *SHAPE), minval=-0.4, maxval=0.4)
    return Batch(prototypes[labels] + noise, labels, jax.random.split(jax.random.key(1), 8))


@pytest.fixture(scope="module")
def variables(batch):
    return jax.jit(make().init)(jax.random.key(2), batch)


@pytest.fixture(scope="module")
def trained(variables, batch):
    loss, adam = make().objectives[0].loss, optax.adam(3e-3)

    @jax.jit
    def step(params, optimizer):
        grads, _ = jax.grad(loss, has_aux=True)(params, {}, None, batch, step=0, train=True)
        updates, optimizer = adam.update(grads, optimizer, params)
        return optax.apply_updates(params, updates), optimizer

    params, optimizer = variables.params, adam.init(variables.params)
    for _ in range(40):
        params, optimizer = step(params, optimizer)
    return variables._replace(params=params)


def loss_of(variables, batch, train=True):
    value, (state, metrics) = jax.jit(partial(make().objectives[0].loss, step=0, train=train))(*variables, None, batch)
    assert state == {}
    return value, metrics


def test_cross_entropy_is_the_negative_log_probability():
    logits, labels = np.random.default_rng(0).normal(0, 5, (6, 4)), np.array([0, 3, 1, 2, 2, 0])
    expected = -log_softmax(logits, axis=1)[np.arange(6), labels]
    np.testing.assert_allclose(classifier.cross_entropy(jnp.asarray(logits), labels), expected, rtol=1e-5)


def test_untrained_all_classes_are_equally_probable(variables, batch):
    value, _ = loss_of(variables, batch)
    np.testing.assert_allclose(value, math.log(CLASSES), rtol=1e-6)
    grads = jax.jit(jax.grad(lambda p: make().objectives[0].loss(p, {}, None, batch, step=0, train=True)[0]))(variables.params)
    np.testing.assert_allclose(grads["head"]["bias"], 1 / CLASSES - np.array([4, 2, 2]) / 8, atol=1e-6)
    assert np.abs(grads["head"]["kernel"]).max() > 1e-3


def test_training_tells_the_classes_apart(trained, batch):
    value, metrics = loss_of(trained, batch)
    assert value < 0.1 and metrics["accuracy"] == 1
    assert loss_of(trained, batch, train=False)[0] == value
    wrong = batch._replace(labels=(batch.labels + 1) % CLASSES)
    assert loss_of(trained, wrong)[1]["accuracy"] == 0


def test_features_are_of_one_image_alone_and_give_the_logits(trained, batch):
    encode = jax.jit(make().encode)
    features = encode(trained, None, batch.x)
    assert features.shape == (8, 16) and features.dtype == jnp.float32
    np.testing.assert_allclose(encode(trained, batch.keys, batch.x[5:6]), features[5:6], atol=1e-5)
    assert features.min() > -0.279
    nats = classifier.cross_entropy(classifier.logits_of(trained, features), batch.labels)
    np.testing.assert_allclose(nats.mean(), loss_of(trained, batch)[0], rtol=1e-5)


def test_what_it_cannot_do_is_one_clear_line(variables, batch):
    with pytest.raises(InputError, match="a classifier does not sample"):
        make().sample(variables, batch.keys, steps=3)
    with pytest.raises(InputError, match="needs labels"):
        classifier.make(SHAPE, None)
    with pytest.raises(InputError, match="channel_multipliers"):
        make(channel_multipliers=(1, 2, 4, 8))
