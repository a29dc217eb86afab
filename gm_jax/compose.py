"""Models made of models: a part has its place in the parameters and in the state, and its objectives their window.

A `make` that names `build` among its arguments is given (settings, image_shape) -> Model, see `build.build_model`. So no model
imports another: a part comes as a value.
"""

from collections.abc import Callable

from gm_jax.core import Batch, Objective, Variables


def part(variables: Variables, name: str) -> Variables:
    """The variables of the part of that name."""
    return Variables(variables.params[name], variables.state[name])


def join(**parts: Variables) -> Variables:
    """The variables of the whole: each part's under its name."""
    return Variables({name: v.params for name, v in parts.items()}, {name: v.state for name, v in parts.items()})


def within(
    objective: Objective,
    name: str,
    *,
    rename: str | None = None,
    optimizer: str | None = None,
    start: int = 0,
    stop: int | None = None,
    view: Callable[[Variables, Batch], Batch] = lambda variables, batch: batch,
) -> Objective:
    """An objective of the part `name` as one of the whole.

    Args:
      objective: the part's own.
      rename: what it is called in the whole, by default as in the part: names must differ, and head the optimizer's settings.
      optimizer: what the objective whose optimizer it shares is called in the whole, by default as in the part.
      start, stop: the part's window in steps of the whole. The objective counts its own steps from `start`.
      view: (variables of the whole, batch) -> the batch that the part sees: what another part makes of the images, say.
    """

    def loss(params, state, key, batch, *, step, train):
        seen = view(Variables(params, state), batch)
        value, (new, metrics) = objective.loss(params[name], state[name], key, seen, step=step - start, train=train)
        return value, ({**state, name: new}, metrics)

    def after(params, state, *, step):
        return {**state, name: objective.after(params[name], state[name], step=step - start)}

    ends = [end for end in (stop, None if objective.stop is None else objective.stop + start) if end is not None]
    return objective._replace(
        name=rename or objective.name,
        optimizer=optimizer or objective.optimizer,
        loss=loss,
        after=None if objective.after is None else after,
        group=name if objective.group is None else f"{name}/{objective.group}",
        start=start + objective.start,
        stop=min(ends, default=None),
    )
