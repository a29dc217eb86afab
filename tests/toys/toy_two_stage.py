"""A linear autoencoder, then a Gaussian prior fitted to its codes: two groups with disjoint windows."""

import jax
import jax.numpy as jnp

from gm_jax.core import Model, Objective, Variables


def make(image_shape, *, latent: int = 2, switch: int = 100) -> Model:
    size = image_shape[0] * image_shape[1] * image_shape[2]

    def init(key, batch):
        encoder = jax.random.normal(key, (size, latent)) / jnp.sqrt(size)
        params = {
            "autoencoder": {"encoder": encoder, "decoder": encoder.T, "bias": batch.x.mean(0).reshape(-1)},
            "prior": {"mean": jnp.zeros(latent), "logstd": jnp.zeros(latent)},
        }
        return Variables(params, {"stage_one_steps": jnp.int32(0), "codes_seen": jnp.int32(0)})

    def encode(autoencoder, x):
        return (x.reshape(len(x), -1) - autoencoder["bias"]) @ autoencoder["encoder"]

    def decode(autoencoder, z):
        return z @ autoencoder["decoder"] + autoencoder["bias"]

    def reconstruction_loss(params, state, key, batch, *, step, train):
        autoencoder = params["autoencoder"]
        recon = decode(autoencoder, encode(autoencoder, batch.x))
        mse = jnp.mean((recon - batch.x.reshape(len(batch.x), -1)) ** 2)
        return mse, ({**state, "stage_one_steps": state["stage_one_steps"] + 1}, {"mse": mse})

    def prior_loss(params, state, key, batch, *, step, train):
        z = jax.lax.stop_gradient(encode(params["autoencoder"], batch.x))
        mean, logstd = params["prior"]["mean"], params["prior"]["logstd"]
        nll = jnp.mean(jnp.sum(0.5 * ((z - mean) / jnp.exp(logstd)) ** 2 + logstd, -1))
        return nll, ({**state, "codes_seen": state["codes_seen"] + len(z)}, {"nll": nll})

    def sample(variables, keys, labels=None):
        prior = variables.params["prior"]
        noise = jax.vmap(lambda key: jax.random.normal(key, (latent,)))(keys)
        z = prior["mean"] + jnp.exp(prior["logstd"]) * noise
        return decode(variables.params["autoencoder"], z).reshape(-1, *image_shape)

    return Model(
        init=init,
        objectives=(
            Objective("autoencoder", reconstruction_loss, "autoencoder", stop=switch),
            Objective("prior", prior_loss, "prior", start=switch),
        ),
        sample=sample,
        nfe=lambda: 1,
    )
