"""What happens once an update, optimizers that objectives share, and groups within groups."""

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Model, Objective, Variables
from gm_jax.data.feed import batch_rows
from gm_jax.images import to_float
from tests.training.test_learning import POINTS, SGD, advance, assert_close, last, trainer


def averaging(decay=0.5) -> Model:
    """Its target network is an average of the parameters after every update."""

    def loss(params, state, key, batch, *, step, train):
        return jnp.mean((batch.x.reshape(len(batch.x), -1) - params["w"]) ** 2), (state, {})

    def after(params, state, *, step):
        return {"target": decay * state["target"] + (1 - decay) * params["w"], "steps": state["steps"] + step}

    def init(key, batch):
        return Variables({"w": jnp.zeros(2)}, {"target": jnp.zeros(2), "steps": jnp.int32(0)})

    return Model(init, (Objective("fit", loss, after=after),), sample=None)


def test_after_is_called_once_an_update_however_many_microbatches_there_are():
    states = [last(trainer(averaging(), steps=6, accum=accum, **SGD)) for accum in (1, 2, 4)]
    for state in states[1:]:
        assert_close(state, states[0])
    w, target = np.zeros(2), np.zeros(2)
    for step in range(6):
        w = w - 0.1 * (w - to_float(POINTS)[batch_rows(0, 256, 16, step, 1)[0]].reshape(16, 2).mean(0))
        target = 0.5 * target + 0.5 * w
    np.testing.assert_allclose(states[0].state["target"], target, rtol=1e-5)
    assert states[0].state["steps"] == sum(range(6))


def with_penalty() -> Model:
    """A second objective of the same nested group, every third step, through the optimizer of the first."""

    def loss(params, state, key, batch, *, step, train):
        return jnp.mean((batch.x.reshape(len(batch.x), -1) - params["net"]["head"]["w"]) ** 2), (state, {})

    def penalty(params, state, key, batch, *, step, train):
        return 0.1 * jnp.sum(params["net"]["head"]["w"] ** 2) + params["net"]["body"], (state, {})

    def init(key, batch):
        return Variables({"net": {"head": {"w": jnp.ones(2)}, "body": jnp.zeros(())}})

    objectives = (Objective("fit", loss, "net/head"), Objective("penalty", penalty, "net/head", every=3, optimizer="fit"))
    return Model(init, objectives, sample=None)


@pytest.mark.parametrize("k", [1, 4])
def test_a_shared_optimizer_sees_the_gradients_of_both_in_turn(k):
    momentum = {"name": "sgd", "b1": 0.5, "learning_rate": 0.1}
    *_, (state, _, _) = history = list(advance(trainer(with_penalty(), k, steps=8, **momentum)))
    w, velocity = np.ones(2), np.zeros(2)
    for step in range(8):
        x = to_float(POINTS)[batch_rows(0, 256, 16, step, 1)[0]].reshape(16, 2)
        velocity = 0.5 * velocity + (w - x.mean(0))  # the mean over both coordinates halves the factor 2
        w = w - 0.1 * velocity
        if step % 3 == 2:
            velocity = 0.5 * velocity + 0.2 * w
            w = w - 0.1 * velocity
    np.testing.assert_allclose(state.params["net"]["head"]["w"], w, rtol=1e-5)
    assert state.params["net"]["body"] == 0 and set(state.opt_state) == {"fit"}
    total, count = np.sum([output.metrics.get("penalty/loss", (0, 0)) for _, output, _ in history], axis=0)
    assert count == 2  # its own updates alone
