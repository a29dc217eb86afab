"""From networks to predictors and their loss, with networks that are formulas."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.conditioning import drop_labels
from gm_jax.core import Batch, streams
from gm_jax.denoising import CLOCKS, Augmentation, make_predictor
from gm_jax.diffusion import losses, samplers
from gm_jax.diffusion.paths import coefficients, like
from gm_jax.diffusion.predictions import preconditioned, to_x0
from tests.diffusion.gaussian import PATHS
from tests.formulas import CLASSES, KEYS, LABELS, PATH, SHAPE, X, model_of, network, variables_of


def loss_of(model, batch, train=True, key=None):
    value, (state, metrics) = jax.jit(partial(model.objectives[0].loss, step=0, train=train))(
        variables_of(model).params, {}, key, batch
    )
    assert state == {}
    return float(value), metrics


# --- what a network is told ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", CLOCKS)
def test_a_network_is_told_the_time_by_its_own_clock_or_else_by_the_models(clock):
    t = np.array([1.0, 3.0, 900.0], np.float32)
    path = PATHS["linear"]
    log_ratio = np.log(np.asarray(path.sigma(t), np.float64) / np.asarray(path.alpha(t), np.float64))
    expected = {
        "time": t,
        "index": t - 1,
        "none": 0 * t,
        "log_sigma": log_ratio / 4,
        "time_999": 999 * t,
        "time_1000": 1000 * t,
        "log_sigma_01": np.log(np.asarray(path.sigma(t), np.float64) / 2),
    }[clock]
    show = lambda x, t, *rest: like(t, x) + 0 * x  # noqa: E731
    for own, models in ((clock, "time"), ("auto", clock)):
        ask = make_predictor(path, network(show, own), "eps", models).answer({})
        np.testing.assert_allclose(ask(X[:3], t)[:, 0, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_x_is_shown_as_the_prediction_scales_it_and_the_answer_read_as_it_says():
    t, edm = jnp.array([0.1, 2.0, 50.0]), preconditioned(0.5)
    predictor = make_predictor(PATH, network(lambda x, *rest: jnp.sin(x)), edm, "time")
    seen = edm.scale(coefficients(PATH, t, X[:3])) * X[:3]
    np.testing.assert_allclose(predictor.answer({})(X[:3], t), jnp.sin(seen), rtol=1e-6)
    np.testing.assert_allclose(predictor.denoiser({})(X[:3], t), to_x0(PATH, edm, jnp.sin(seen), X[:3], t), rtol=1e-5)


@pytest.mark.parametrize(
    ("num_classes", "told_size", "labels", "told", "expected"),
    [
        (None, 0, None, None, None),
        (3, 0, [2, -1], None, [[0, 0, 1], [0, 0, 0]]),
        (3, 0, None, None, [[0, 0, 0], [0, 0, 0]]),
        (None, 2, None, [[5, 6], [7, 8]], [[5, 6], [7, 8]]),
        (None, 2, None, None, [[0, 0], [0, 0]]),
        (3, 2, [1, 0], [[5, 6], [7, 8]], [[0, 1, 0, 5, 6], [1, 0, 0, 7, 8]]),
        (3, 2, [1, 0], None, [[0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]),
    ],
)
def test_the_condition_is_the_label_beside_what_augmentation_did(num_classes, told_size, labels, told, expected):
    seen = []
    net = network(lambda x, t, condition, *rest: seen.append(condition) or x)
    predictor = make_predictor(PATH, net, "x0", "time", num_classes, told_size)
    labels, told = (None if a is None else jnp.asarray(a) for a in (labels, told))
    predictor.answer({}, labels, told)(X[:2], 1.0)
    size = predictor.init(jax.random.key(0), X)["condition"].shape
    if expected is None:
        assert seen == [None] and size == (1,)
    else:
        np.testing.assert_array_equal(seen[0], expected)
        assert size == (len(expected[0]),)


# --- training -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["eps", "v", preconditioned(0.5)])
def test_the_loss_is_that_of_the_paper_at_times_and_noise_of_their_names(prediction):
    times, weight = losses.log_normal(PATH, -1.2, 1.2), lambda c: 1 / (1 + c.sigma)
    answer = lambda x, t, *rest: jnp.sin(x) * like(t, x)  # noqa: E731
    model = model_of(answer, prediction=prediction, times=times, weight=weight, term="error")
    value, metrics = loss_of(model, Batch(X, LABELS, KEYS))
    time_keys, noise_keys = streams(KEYS, "time", "noise")
    t, eps = jax.vmap(times)(time_keys), samplers.normal(noise_keys, SHAPE)
    ask = make_predictor(PATH, network(answer), prediction, "time").answer({})
    expected = losses.denoising_loss(PATH, prediction, ask, X, t, eps, weight).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert value == metrics["error"] and model.objectives[0].name == "toy"


def test_the_key_is_for_dropout_and_reaches_the_network_with_train():
    def answer(x, t, condition, train, key):
        return x * 0 + (jax.random.normal(key) if train else 3.0)

    model = model_of(answer, prediction="eps")
    batch = Batch(X, None, KEYS)
    values = {i: loss_of(model, batch, key=jax.random.key(i))[0] for i in (0, 1)}
    assert values[0] != values[1]
    assert abs(loss_of(model, batch, train=False, key=jax.random.key(0))[0] - 10) < 0.2  # (eps - 3)^2


def test_labels_are_dropped_in_training_only_and_by_the_keys_of_the_batch():
    """The network tells whether it was told a label: the loss of x0 = 0 is the share of the labels that it was told."""
    told = lambda x, t, condition, *rest: 0 * x + like(condition.sum(1), x)  # noqa: E731
    batch = Batch(0 * X, LABELS, KEYS)
    model = model_of(told, num_classes=CLASSES, label_dropout=0.3)
    kept = drop_labels(*streams(KEYS, "labels"), LABELS, 0.3) >= 0
    np.testing.assert_allclose(loss_of(model, batch)[0], kept.mean(), rtol=1e-5)
    assert loss_of(model, batch, train=False)[0] == pytest.approx(1)
    assert loss_of(model_of(told, num_classes=CLASSES), batch)[0] == pytest.approx(1)


def test_augmentation_is_told_in_training_and_absent_elsewhere():
    def apply(keys, x):
        flipped = jax.vmap(lambda key: jax.random.bernoulli(key, 0.25))(keys)
        return jnp.where(like(flipped, x) > 0, x + 100, x), flipped[:, None] * 7.0

    answer = lambda x, t, condition, *rest: 0 * x + like(condition[:, -1], x)  # noqa: E731
    model = model_of(answer, augmentation=Augmentation(apply, 1), clip_x0=True)
    batch = Batch(0 * X, None, KEYS)
    share = apply(*streams(KEYS, "augmentation"), 0 * X)[1].mean() / 7
    np.testing.assert_allclose(loss_of(model, batch)[0], share * (100 - 7) ** 2, rtol=1e-4)
    assert loss_of(model, batch, train=False)[0] == 0
    np.testing.assert_array_equal(model.sample(variables_of(model), KEYS[:3]), 0)
