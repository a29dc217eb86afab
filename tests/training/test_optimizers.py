"""Optimizers as the config describes them: schedules over an objective's own window, overrides, averaged parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gm_jax.cli.presets import base
from gm_jax.core import Model, Objective
from gm_jax.errors import InputError
from gm_jax.training import learning
from gm_jax.training.optimizers import averages, build_optimizers, params_ema

RATE = 0.1


def model(*objectives: Objective) -> Model:
    return Model(init=None, objectives=objectives, sample=None)


def build(*objectives, steps=100_000, **settings):
    config = base().to_dict()
    config["train"]["steps"] = steps
    config["optimizer"].update(settings)
    return build_optimizers(config, model(*(objectives or [Objective("only", None)])))


def rates(optimizer, updates: int) -> np.ndarray:
    """The learning rate of each update of a plain gradient descent: the gradient is one everywhere."""

    def one(state, _):
        update, state = optimizer.update(jnp.ones(()), state, jnp.zeros(()))
        return state, -update

    return np.asarray(jax.lax.scan(one, optimizer.init(jnp.zeros(())), None, updates)[1])


def descent(*objectives, **settings):
    return build(*objectives, name="sgd", b1=0.0, learning_rate=RATE, **settings)


def cosine(updates, horizon):
    return 0.5 * RATE * (1 + np.cos(np.pi * np.minimum(updates, horizon) / horizon))


# --- averaged parameters ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", [False, True])
def test_params_ema_is_the_weighted_sum_of_the_parameters_after_each_update(warmup):
    decay, updates = 0.8, 30  # with warm-up, (1 + n) / (10 + n) passes 0.8 at n = 35: the whole run is warm-up
    rng = np.random.default_rng(0)
    start, steps = rng.normal(size=3), rng.normal(size=(updates, 3))
    ema = params_ema(decay, warmup)
    params = {"w": jnp.asarray(start, jnp.float32)}
    state = ema.init(params)
    for step in steps:
        given = {"w": jnp.asarray(step, jnp.float32)}
        passed, state = ema.update(given, state, params)
        np.testing.assert_array_equal(passed["w"], given["w"])
        params = optax.apply_updates(params, passed)

    d = np.array([(1 + n) / (10 + n) for n in range(updates)]) if warmup else np.full(updates, decay)
    later = np.array([math.prod(d[n + 1 :]) for n in range(updates)])
    expected = math.prod(d) * start + ((1 - d) * later) @ (start + np.cumsum(steps, 0))
    np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "unbounded"),
    [
        ({"warmup": True}, lambda n: (1 + n) / (10 + n)),  # 0.5 at n = 8
        ({"ramp": 0.2}, lambda n: 0.5 ** (1 / (0.2 * n)) if n else 0.0),  # 0.5 at n = 5
    ],
)
def test_warmup_ends_where_it_reaches_the_decay(settings, unbounded):
    ema = params_ema(0.5, **settings)
    average = jax.jit(lambda state: ema.update(jnp.zeros(()), state, jnp.zeros(()))[1])
    state, weights = ema.init(jnp.ones(())), [1.0]  # what is left of the one that it starts from
    for _ in range(12):
        state = average(state)
        weights.append(float(state.ema))
    expected = np.cumprod([min(0.5, unbounded(n)) for n in range(12)])
    np.testing.assert_allclose(weights[1:], expected, rtol=1e-5)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_params_ema_refuses_a_decay_that_does_not_average(decay):
    with pytest.raises(InputError, match=r"decay must lie in \[0, 1\)"):
        params_ema(decay)
    with pytest.raises(InputError, match="ema_decay"):
        build(ema_decay=decay)


def test_params_ema_needs_the_parameters():
    ema = params_ema(0.5)
    with pytest.raises(ValueError, match="needs the parameters"):
        ema.update(jnp.ones(()), ema.init(jnp.zeros(())))


def test_ema_is_last_it_averages_what_clipping_adam_and_decay_leave():
    settings = {"clip_norm": 0.5, "weight_decay": 0.1, "warmup_steps": 3, "learning_rate": RATE}
    averaged = build(ema_decay=0.9, ema_warmup=False, **settings)["only"]
    plain = build(**settings)["only"]
    params = {"w": jnp.array([1.0, -2.0])}
    state, plain_state, expected = averaged.init(params), plain.init(params), params["w"]
    for n in range(5):
        grads = {"w": jnp.array([3.0, 4.0 - n])}
        updates, state = averaged.update(grads, state, params)
        same, plain_state = plain.update(grads, plain_state, params)
        np.testing.assert_array_equal(updates["w"], same["w"])
        params = optax.apply_updates(params, updates)
        expected = 0.9 * expected + 0.1 * params["w"]
    np.testing.assert_allclose(state[-1].ema["w"], expected, rtol=1e-6)


def test_averaged_params_replace_only_the_groups_that_have_an_average():
    objectives = (Objective("first", None, "a"), Objective("second", None, "b"))
    optimizers = build(*objectives, second={"ema_decay": 0.9})
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    opt_state = {o.name: optimizers[o.name].init(params[o.group]) for o in objectives}
    later = learning.TrainState(jnp.int32(0), jax.tree.map(jnp.zeros_like, params), {}, opt_state)
    averaged = learning.averaged_params(later, objectives)
    np.testing.assert_array_equal(averaged["a"], np.zeros(2))
    np.testing.assert_array_equal(averaged["b"], np.ones(3))
    assert learning.has_ema(later)
    assert not learning.has_ema(later._replace(opt_state={"first": opt_state["first"]}))


# --- schedules ----------------------------------------------------------------------------------------------------------------


def test_constant_rate_follows_a_linear_warmup_that_moves_from_the_first_update_on():
    got = rates(descent(warmup_steps=4)["only"], 7)
    np.testing.assert_allclose(got, RATE * np.array([0.25, 0.5, 0.75, 1, 1, 1, 1]), rtol=1e-6)
    np.testing.assert_allclose(rates(descent(warmup_steps=1)["only"], 3), RATE, rtol=1e-6)


@pytest.mark.parametrize("steps", [10, 100_000])
@pytest.mark.parametrize("start, every", [(0, 1), (40, 1), (40, 3)])
def test_schedule_runs_over_the_objectives_window_whatever_the_length_of_the_run(steps, start, every):
    updates = 20
    objective = Objective("prior", None, start=start, stop=start + updates * every, every=every)
    n = np.arange(updates + 3)
    got = rates(descent(objective, schedule="cosine", steps=steps)["prior"], len(n))
    np.testing.assert_allclose(got, cosine(n, updates), atol=1e-7)
    assert got[updates - 1] > 0 and abs(got[updates]) < 1e-8  # it would reach 0 just at the window's end
    got = rates(descent(objective, schedule="linear", steps=steps)["prior"], len(n))
    np.testing.assert_allclose(got, RATE * np.maximum(1 - n / updates, 0), atol=1e-7)
    got = rates(descent(objective, schedule="exponential", steps=steps)["prior"], len(n))
    np.testing.assert_allclose(got, RATE * np.exp(-n / updates), rtol=1e-6)


def test_warmup_is_part_of_the_window_and_horizon_replaces_it():
    objective = Objective("prior", None, start=5, stop=25)
    got = rates(descent(objective, schedule="cosine", warmup_steps=4)["prior"], 21)
    np.testing.assert_allclose(got[:4], RATE * np.array([0.25, 0.5, 0.75, 1]), rtol=1e-6)
    np.testing.assert_allclose(got[4:], cosine(np.arange(17), 16), atol=1e-7)
    got = rates(descent(objective, schedule="cosine", horizon=8)["prior"], 10)
    np.testing.assert_allclose(got, cosine(np.arange(10), 8), atol=1e-7)


def test_horizon_and_warmup_are_steps_of_the_run_however_rarely_an_objective_updates():
    often, rare = Objective("critic", None, "critic"), Objective("generator", None, "generator", every=5)
    optimizers = descent(often, rare, schedule="linear", horizon=100, warmup_steps=20)
    critic, generator = rates(optimizers["critic"], 100), rates(optimizers["generator"], 20)
    np.testing.assert_allclose(generator[4:], critic[20::5], rtol=1e-5, atol=1e-7)  # the same rate at the same step
    np.testing.assert_allclose(generator[:4], RATE * np.arange(1, 5) / 4, rtol=1e-6)


def test_a_schedule_without_an_end_is_refused():
    with pytest.raises(InputError, match="'linear' of 'only' needs a length; set optimizer.horizon"):
        build(schedule="linear")


# --- what the config says -----------------------------------------------------------------------------------------------------


def test_settings_reach_the_optimizer():
    momentum = rates(build(name="sgd", b1=0.5, learning_rate=RATE)["only"], 4)
    np.testing.assert_allclose(momentum, RATE * np.array([1, 1.5, 1.75, 1.875]), rtol=1e-6)

    optimizer = descent(clip_norm=1.0, weight_decay=0.01)["only"]
    params = jnp.array([10.0, -20.0])
    updates, _ = optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(params), params)
    np.testing.assert_allclose(updates, -RATE * (np.array([0.6, 0.8]) + 0.01 * params), rtol=1e-6)

    b1, b2, eps = 0.5, 0.25, 0.125
    adam = build(b1=b1, b2=b2, eps=eps, learning_rate=RATE)["only"]
    state = adam.init(jnp.zeros(()))
    for gradient in (2.0, -3.0):
        update, state = adam.update(jnp.float32(gradient), state, jnp.zeros(()))
    mean = ((1 - b1) * -3 + b1 * (1 - b1) * 2) / (1 - b1**2)
    square = ((1 - b2) * 9 + b2 * (1 - b2) * 4) / (1 - b2**2)
    np.testing.assert_allclose(update, -RATE * mean / (math.sqrt(square) + eps), rtol=1e-5)


def test_a_schedule_ends_where_it_is_told_to_and_takes_b2_along():
    falling = descent(schedule="cosine", horizon=4, end_rate=0.02)["only"]
    expected = 0.02 + 0.08 * 0.5 * (1 + np.cos(np.pi * np.minimum(np.arange(6), 4) / 4))
    np.testing.assert_allclose(rates(falling, 6), expected, rtol=1e-5)

    optimizer = build(b1=0.0, b2=0.5, end_b2=0.9, eps=1e-12, learning_rate=RATE, schedule="linear", end_rate=RATE, horizon=4)
    optimizer, square = optimizer["only"], 0.0
    state = optimizer.init(jnp.zeros(()))
    for n, gradient in enumerate((2.0, -3.0, 1.0, 4.0, 1.0, 2.0)):
        update, state = optimizer.update(jnp.float32(gradient), state, jnp.zeros(()))
        b2 = 0.5 + 0.4 * min(n / 4, 1)
        square = b2 * square + (1 - b2) * gradient**2
        unbiased = square / (1 - b2 ** (n + 1))  # as optax corrects for the start
        np.testing.assert_allclose(update, -RATE * gradient / math.sqrt(unbiased), rtol=1e-4)


def test_rmsprop_divides_by_the_running_root_mean_square():
    optimizer = build(name="rmsprop", b2=0.75, eps=1e-12, learning_rate=RATE)["only"]
    state, square = optimizer.init(jnp.zeros(())), 0.0
    for gradient in (2.0, -3.0):
        update, state = optimizer.update(jnp.float32(gradient), state, jnp.zeros(()))
        square = 0.75 * square + 0.25 * gradient**2
        np.testing.assert_allclose(update, -RATE * gradient / math.sqrt(square), rtol=1e-5)


def test_clipped_weights_stay_within_their_bound_and_their_average_is_of_clipped_ones():
    optimizer = descent(weight_clip=0.05, ema_decay=0.5, ema_warmup=False)["only"]
    params = jnp.array([0.04, -0.04, 0.0])
    state = optimizer.init(params)
    averaged = params
    for gradient in ([-1.0, 1.0, 0.1], [-1.0, 1.0, 0.1]):
        updates, state = optimizer.update(jnp.array(gradient), state, params)
        params = params + updates
        averaged = 0.5 * averaged + 0.5 * params
    np.testing.assert_allclose(params, [0.05, -0.05, -2 * 0.1 * RATE], atol=1e-6)
    np.testing.assert_allclose(averages(state)[0].ema, averaged, atol=1e-6)


def test_an_objective_may_override_the_common_settings():
    objectives = (Objective("critic", None, "critic"), Objective("generator", None, "generator"))
    optimizers = descent(*objectives, generator={"learning_rate": 0.5, "warmup_steps": 2})
    np.testing.assert_allclose(rates(optimizers["critic"], 3), RATE, rtol=1e-6)
    np.testing.assert_allclose(rates(optimizers["generator"], 3), [0.25, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "adma"}, "unknown optimizer 'adma'; choose adam, rmsprop, sgd"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; choose constant, linear, cosine, exponential"),
        ({"generator": {"learning_rate": 1.0}}, "optimizer.generator names no objective of this model.*only"),
        ({"only": {"momentum": 1.0}}, "unknown field optimizer.only.momentum; known: .*learning_rate"),
    ],
)
def test_bad_settings_are_one_clear_line(settings, message):
    with pytest.raises(InputError, match=message) as error:
        build(**settings)
    assert "\n" not in str(error.value)


def test_two_averages_of_the_same_parameters_are_refused():
    whole, part = Objective("whole", None), Objective("part", None, "net/decoder")
    other = Objective("other", None, "net/encoder")
    assert set(build(part, other, ema_decay=0.9)) == {"part", "other"}
    for objectives in ((whole, part), (Objective("net", None, "net"), part)):
        with pytest.raises(InputError, match="would both average the parameters of net"):
            build(*objectives, ema_decay=0.9)
    assert set(build(whole, part, ema_decay=0.9, part={"ema_decay": 0.0})) == {"whole", "part"}


def test_an_objective_that_shares_an_optimizer_has_none_of_its_own():
    critic, penalty = Objective("critic", None, "critic"), Objective("r1", None, "critic", every=16, optimizer="critic")
    assert set(build(critic, penalty, ema_decay=0.9)) == {"critic"}
    with pytest.raises(InputError, match="optimizer.r1 names no objective"):
        build(critic, penalty, r1={"learning_rate": 1.0})


# --- skipping -----------------------------------------------------------------------------------------------------------------


def test_a_large_or_endless_gradient_moves_nothing_that_the_optimizer_holds():
    """What is left are the updates that the small gradients alone would have made."""
    settings = {"clip_norm": 1.0, "warmup_steps": 3, "weight_decay": 0.1, "ema_decay": 0.9, "learning_rate": RATE}
    skipping, plain = build(skip_norm=5.0, **settings)["only"], build(**settings)["only"]
    params = other = {"w": jnp.array([1.0, -2.0])}
    state, plain_state = skipping.init(params), plain.init(other)
    grads = [[3.0, 3.9], [3.0, 4.0], [jnp.nan, 0.0], [0.5, 0.0], [jnp.inf, 1.0], [30.0, 0.0], [0.0, -2.0]]  # 4.92, 5, ...
    small = [0, 3, 6]
    for i, g in enumerate(grads):
        updates, state = jax.jit(skipping.update)({"w": jnp.array(g)}, state, params)
        params = optax.apply_updates(params, updates)
        if i in small:
            updates, plain_state = plain.update({"w": jnp.array(g)}, plain_state, other)
            other = optax.apply_updates(other, updates)
        np.testing.assert_allclose(params["w"], other["w"], rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), state.inner, plain_state)
    assert int(state.skipped) == len(grads) - len(small)
    [average] = averages(state)
    np.testing.assert_allclose(average.ema["w"], plain_state[-1].ema["w"], rtol=1e-6)
