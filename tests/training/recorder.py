"""A model that learns nothing and remembers which examples it saw, and what it drew for each of them."""

import jax
import jax.numpy as jnp

from gm_jax.core import Model, Objective, Variables, batch_gather


def make(image_shape, axis_name: str | None = None, remember: int = 64) -> Model:
    def init(key, batch):
        state = {"x": jnp.zeros((remember, *image_shape)), "draws": jnp.zeros((remember, 3))}
        return Variables({"w": jnp.zeros(())}, state)

    def push(memory, rows):
        return jnp.concatenate([memory, batch_gather(rows, axis_name)])[-remember:]

    def loss(params, state, key, batch, *, step, train):
        draws = jax.vmap(lambda key: jax.random.uniform(key, (3,)))(batch.keys)
        new_state = {"x": push(state["x"], batch.x), "draws": push(state["draws"], draws)}
        return jnp.mean((params["w"] - batch.x) ** 2), (new_state, {"drawn": draws.mean()})

    def sample(variables, keys, labels=None):
        return jnp.broadcast_to(variables.params["w"], (len(keys), *image_shape))

    return Model(init, (Objective("fit", loss),), sample)
