"""Models made of models, on a toy: the loss of a part is (p x)^2, its step and labels are among its metrics."""

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.compose import join, part, within
from gm_jax.core import Batch, Objective, Variables


def loss(params, state, key, batch, *, step, train):
    value = (params["net"]["w"] * batch.x).sum() + key
    return value, ({"count": state["count"] + 1}, {"step": step, "train": train, "labels": batch.labels})


def after(params, state, *, step):
    return {"count": state["count"] + 10 * params["net"]["w"], "step": step}


OWN = Objective("fit", loss, "net", every=3, start=5, stop=20, optimizer="other", after=after)
PARTS = {
    "first": Variables({"net": {"w": jnp.float32(2.0)}}, {"count": 0}),
    "second": Variables({"net": {"w": jnp.float32(-1.0)}}, {"count": 7}),
}
WHOLE = join(**PARTS)
BATCH = Batch(jnp.array([1.0, 3.0]), jnp.array([4, 5]), None)


def run(objective, step=100):
    return objective.loss(*WHOLE, 0.5, BATCH, step=step, train=True)


def test_parts_are_joined_under_their_names_and_found_there():
    assert WHOLE.params.keys() == WHOLE.state.keys() == PARTS.keys()
    for name, variables in PARTS.items():
        assert part(WHOLE, name) == variables


def test_an_objective_sees_its_part_alone_and_leaves_the_others_state():
    value, (state, metrics) = run(within(OWN, "second"))
    assert value == -4.0 + 0.5
    assert state == {"first": {"count": 0}, "second": {"count": 8}}
    assert metrics["train"] is True
    np.testing.assert_array_equal(metrics["labels"], BATCH.labels)


def test_gradients_reach_the_part_alone():
    objective = within(OWN, "first")
    grads = jax.grad(lambda params: objective.loss(params, WHOLE.state, 0.5, BATCH, step=100, train=True)[0])(WHOLE.params)
    assert grads["first"]["net"]["w"] == 4 and grads["second"]["net"]["w"] == 0


def test_after_is_of_the_part_and_none_where_it_has_none():
    state = within(OWN, "first", start=30).after(*WHOLE, step=40)
    assert state == {"first": {"count": 20, "step": 10}, "second": {"count": 7}}
    assert within(OWN._replace(after=None), "first").after is None


def test_its_name_and_group_are_those_in_the_whole():
    objective = within(OWN, "first")
    assert (objective.name, objective.group, objective.every, objective.optimizer) == ("fit", "first/net", 3, "other")
    assert within(OWN, "first", rename="fit_first").name == "fit_first"
    assert within(OWN._replace(group=None), "first").group == "first"
    assert within(OWN._replace(group="net/w"), "first").group == "first/net/w"


def window(own_start, own_stop, **options):
    objective = within(OWN._replace(start=own_start, stop=own_stop), "first", **options)
    return objective.start, objective.stop


def test_the_window_is_the_parts_own_counted_from_its_start_in_the_whole():
    assert window(0, None) == (0, None)
    assert window(5, 20) == (5, 20)
    assert window(5, 20, start=100) == (105, 120)
    assert window(0, None, start=100) == (100, None)


def test_the_window_ends_with_that_of_the_part_in_the_whole():
    assert window(0, None, stop=50) == (0, 50)
    assert window(5, 20, start=100, stop=110) == (105, 110)
    assert window(5, 20, start=100, stop=500) == (105, 120)


def test_the_part_counts_its_own_steps_from_0():
    assert run(within(OWN, "first", start=100), step=100)[1][1]["step"] == 0
    assert run(within(OWN, "first", start=100), step=107)[1][1]["step"] == 7
    assert run(within(OWN, "first"), step=107)[1][1]["step"] == 107


def test_a_view_shows_the_part_what_another_part_makes_of_the_batch():
    def view(variables, batch):
        return batch._replace(x=part(variables, "second").params["net"]["w"] * batch.x, labels=None)

    value, (_, metrics) = run(within(OWN, "first", view=view))
    assert value == -8.0 + 0.5 and metrics["labels"] is None


def test_parts_of_parts_compose():
    inner = within(OWN, "second", start=10)
    outer = within(inner, "whole", rename="deep", start=100, stop=1000)
    assert (outer.name, outer.group, outer.start, outer.stop) == ("deep", "whole/second/net", 115, 130)
    variables = join(whole=WHOLE)
    value, (state, metrics) = outer.loss(*variables, 0.5, BATCH, step=117, train=False)
    assert value == -3.5 and state["whole"]["second"]["count"] == 8 and metrics["step"] == 7
    assert outer.after(*variables, step=117)["whole"]["second"] == {"count": -3, "step": 7}
