"""A linear map that learns to do what a trained autoencoder (of toy_two_stage) does: the teacher is kept in the state."""

import jax
import jax.numpy as jnp

from gm_jax.core import Model, Objective, Variables
from tests.toys import toy_two_stage


def reconstruct(autoencoder, x):
    flat = x.reshape(len(x), -1) - autoencoder["bias"]
    return flat @ autoencoder["encoder"] @ autoencoder["decoder"] + autoencoder["bias"]


def make(image_shape, *, latent: int = 2) -> Model:
    fresh = toy_two_stage.make(image_shape, latent=latent).init

    def init(key, batch):
        student, teacher = (fresh(k, batch).params for k in jax.random.split(key))
        return Variables({"student": student["autoencoder"]}, {"teacher": teacher})

    def loss(params, state, key, batch, *, step, train):
        answers = [reconstruct(net, batch.x) for net in (params["student"], state["teacher"]["autoencoder"])]
        return jnp.mean((answers[0] - answers[1]) ** 2), (state, {})

    def sample(variables, keys, labels=None):
        x = jax.vmap(lambda key: jax.random.normal(key, image_shape))(keys)
        return reconstruct(variables.params["student"], x).reshape(-1, *image_shape)

    return Model(init, (Objective("distill", loss),), sample)
