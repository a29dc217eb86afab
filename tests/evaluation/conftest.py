"""A model whose every answer is known: images on a line, x = mean + width * z, with an exact encoder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import DiagonalGaussian, Likelihood, Model, Variables
from gm_jax.evaluation.context import Context
from gm_jax.settings import Count

SHAPE = (4, 4, 1)
DIMS = 16


class ToyData(NamedTuple):
    x_test: np.ndarray
    name: str = "toy"
    x_train: np.ndarray = np.random.default_rng(2).integers(0, 256, (30, *SHAPE), dtype=np.uint8)
    y_train: np.ndarray | None = None
    y_test: np.ndarray | None = None
    image_shape: tuple = SHAPE
    num_classes: int | None = None
    binarize: bool = False


def toy_model() -> Model:
    """Samples pass through a matrix and a tanh; the code is half of the pixels, so that reconstruction has a known error."""

    def sample(variables, keys, labels=None, *, width=1.0):
        z = jax.vmap(lambda key: jax.random.normal(key, (DIMS,)))(keys)
        x = jnp.tanh(width * z @ variables.params["mix"]).reshape(-1, *SHAPE)
        return x if labels is None else jnp.broadcast_to(labels[:, None, None, None] / 10.0, x.shape)

    def posterior(variables, x, labels=None):
        mean = x.reshape(len(x), DIMS)[:, : DIMS // 2]
        return DiagonalGaussian(mean, jnp.zeros_like(mean))

    def encode(variables, keys, x, labels=None):
        mean = posterior(variables, x).mean
        return mean + jax.vmap(lambda key: jax.random.normal(key, (DIMS // 2,)))(keys)

    def decode(variables, keys, z, labels=None):
        return jnp.concatenate([z, jnp.full_like(z, 0.1)], axis=1).reshape(-1, *SHAPE)

    def trajectory(variables, keys, labels=None, *, frames, width=1.0):
        last = sample(variables, keys, width=width)
        frames = min(frames, 12)  # its steps
        return last * (jnp.arange(1, frames + 1) / frames)[:, None, None, None, None]

    def complete(variables, keys, x, known, labels=None, *, width=1.0):
        return jnp.where(known[..., None], x, sample(variables, keys, width=width))

    def nats(variables, keys, images, labels=None, *, scale: Count = 1):
        return scale * images.astype(jnp.float32).sum((1, 2, 3)) / 100

    return Model(
        init=lambda key, batch: Variables({}, {}),
        objectives=(),
        sample=sample,
        trajectory=trajectory,
        nfe=lambda width=1.0: 12,
        encode=encode,
        decode=decode,
        posterior=posterior,
        complete=complete,
        likelihoods=(Likelihood("elbo", "bound", nats), Likelihood("twice", "exact", lambda *a: 2 * nats(*a))),
    )


def toy_variables() -> Variables:
    return Variables({"mix": jnp.asarray(np.random.default_rng(0).normal(size=(DIMS, DIMS)) / 4, jnp.float32)}, {})


@pytest.fixture(scope="session")
def toy():
    return toy_model(), toy_variables()


@pytest.fixture
def context(toy, tmp_path):
    x_test = np.random.default_rng(1).integers(0, 256, (11, *SHAPE), dtype=np.uint8)
    return Context(*toy, ToyData(x_test), tmp_path / "out", batch_size=4, step=7, model_name="toy")
