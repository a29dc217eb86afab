"""A least-squares GAN (Mao et al. 2017) on points of the plane: two objectives, two groups, two rhythms."""

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from gm_jax.core import Model, Objective, Variables


class Mlp(nn.Module):
    out: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.out)(nn.swish(nn.Dense(32)(nn.swish(nn.Dense(32)(x)))))


def make(image_shape, *, generator_every: int = 5) -> Model:
    size = image_shape[0] * image_shape[1] * image_shape[2]
    generator, critic = Mlp(size), Mlp(1)

    def noise(keys):
        return jax.vmap(lambda key: jax.random.normal(key, (2,)))(keys)

    def fakes(params, keys):
        return jnp.tanh(generator.apply(params["generator"], noise(keys)))

    def init(key, batch):
        keys = jax.random.split(key)
        flat = batch.x.reshape(len(batch.x), -1)
        params = {"generator": generator.init(keys[0], noise(batch.keys)), "critic": critic.init(keys[1], flat)}
        return Variables(params, {"critic_losses": jnp.int32(0), "generator_losses": jnp.int32(0)})

    def critic_loss(params, state, key, batch, *, step, train):
        real = critic.apply(params["critic"], batch.x.reshape(len(batch.x), -1))
        fake = critic.apply(params["critic"], fakes(params, batch.keys))
        loss = jnp.mean((real - 1) ** 2) + jnp.mean(fake**2)
        counted = {**state, "critic_losses": state["critic_losses"] + 1}
        return loss, (counted, {"real": real.mean(), "fake": fake.mean()})

    def generator_loss(params, state, key, batch, *, step, train):
        fake = critic.apply(params["critic"], fakes(params, batch.keys))
        counted = {**state, "generator_losses": state["generator_losses"] + 1}
        return optax.l2_loss(fake, jnp.ones_like(fake)).mean(), (counted, {"fake": fake.mean()})

    def sample(variables, keys, labels=None):
        return fakes(variables.params, keys).reshape(-1, *image_shape)

    return Model(
        init=init,
        objectives=(
            Objective("critic", critic_loss, "critic"),
            Objective("generator", generator_loss, "generator", every=generator_every),
        ),
        sample=sample,
        nfe=lambda: 1,
    )
