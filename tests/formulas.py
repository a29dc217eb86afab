"""Models of noise whose networks are formulas: nothing is trained and next to nothing compiled."""

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.core import Batch, Network
from gm_jax.denoising import denoising_model
from gm_jax.diffusion import losses
from gm_jax.diffusion.paths import edm_path, like

PATH, SHAPE, CLASSES = edm_path(), (2, 2, 1), 3
KEYS = jax.random.split(jax.random.key(1), 3000)
X = np.float32(np.random.default_rng(0).uniform(-1, 1, (len(KEYS), *SHAPE)))
LABELS = jnp.arange(len(KEYS)) % CLASSES
CENTRES = jnp.array([-0.8, 0.1, 0.5])


def network(answer, clock="auto"):
    """A network without parameters: answer(x, t, condition, train, key)."""
    return Network(
        init=lambda key, x, t, condition: {"condition": jnp.zeros(1 if condition is None else condition.shape[1])},
        apply=lambda params, x, t, condition, *, train=False, key=None: answer(x, t, condition, train, key),
        clock=clock,
    )


def centre_of_condition(x, t, condition, train, key):
    """The centre of the class whose label is told, 0 without a label."""
    return like(condition @ CENTRES, x) + 0 * x


def model_of(answer, shape=SHAPE, prediction="x0", times=None, sampling=None, **options):
    sampling = sampling or {"sampler": "ddim", "steps": 3, "spacing": "karras"}
    draw_time = times or losses.log_normal(PATH, -1.2, 1.2)
    return denoising_model(
        "toy", shape, PATH, network(answer), prediction, draw_time, clock="time", sampling=sampling, **options
    )


def variables_of(model):
    return model.init(jax.random.key(0), Batch(X[:2], LABELS[:2], KEYS[:2]))
