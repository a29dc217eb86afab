"""A mean fitted by least squares, until at one step the gradient of one parameter becomes infinite."""

import jax.numpy as jnp

from gm_jax.core import Model, Objective, Variables


def make(image_shape, *, diverge_at: int = 7) -> Model:
    def init(key, batch):
        return Variables({"net": {"mean": jnp.zeros(image_shape), "scale": jnp.ones(())}})

    def loss(params, state, key, batch, *, step, train):
        fit = jnp.mean((params["net"]["mean"] - batch.x) ** 2)
        penalty = params["net"]["scale"] * jnp.where(step == diverge_at, jnp.inf, 0.1)
        return fit + penalty, (state, {"fit": fit, "penalty": penalty})

    def sample(variables, keys, labels=None):
        return jnp.broadcast_to(variables.params["net"]["mean"], (len(keys), *image_shape))

    return Model(init, (Objective("regression", loss),), sample, nfe=lambda: 1)
