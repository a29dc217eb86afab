"""A denoiser with BatchNorm: its statistics live in the state, and must be recalibrated for averaged weights."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from gm_jax.core import Model, Objective, Variables, batch_mean

MOMENTUM = 0.9


def normalize(x, scale, mean, var):
    return scale * (x - mean) / jnp.sqrt(var + 1e-5)


def make(image_shape, axis_name: str | None = None, *, width: int = 16) -> Model:
    size = image_shape[0] * image_shape[1] * image_shape[2]
    into, out = nn.Dense(width), nn.Dense(size)

    def init(key, batch):
        keys = jax.random.split(key)
        params = {
            "into": into.init(keys[0], jnp.zeros((1, size))),
            "scale": jnp.ones(width),
            "out": out.init(keys[1], jnp.zeros((1, width))),
        }
        return Variables(params, {"mean": jnp.zeros(width), "var": jnp.ones(width)})

    def moments(params, x):
        h = into.apply(params["into"], x)
        mean = batch_mean(h, axis_name)
        return h, mean, batch_mean((h - mean) ** 2, axis_name)

    def decode(params, h, mean, var):
        return out.apply(params["out"], nn.swish(normalize(h, params["scale"], mean, var)))

    def corrupt(x, keys):
        x = x.reshape(len(x), -1)
        return x, x + 0.5 * jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)

    def loss(params, state, key, batch, *, step, train):
        x, noisy = corrupt(batch.x, batch.keys)
        h, mean, var = moments(params, noisy)
        if train:
            new_state = {
                "mean": MOMENTUM * state["mean"] + (1 - MOMENTUM) * mean,
                "var": MOMENTUM * state["var"] + (1 - MOMENTUM) * var,
            }
        else:
            mean, var, new_state = state["mean"], state["var"], state
        mse = jnp.mean((decode(params, h, mean, var) - x) ** 2)
        return mse, (new_state, {"mse": mse})

    def sample(variables, keys, labels=None):
        noise = jax.vmap(lambda key: jax.random.normal(key, (size,)))(keys)
        h = into.apply(variables.params["into"], noise)
        return decode(variables.params, h, variables.state["mean"], variables.state["var"]).reshape(-1, *image_shape)

    def recalibrate(variables, batch):
        _, noisy = corrupt(batch.x, batch.keys)
        _, mean, var = moments(variables.params, noisy)
        return {"mean": mean, "var": var}

    return Model(init, (Objective("denoise", loss),), sample, recalibrate=recalibrate)
