"""Losses and samples of the denoising models against numbers kept in golden/denoising.json, from fixed weights.

The recipe. Weights: each leaf of the network's parameters by its path "a/b/c" within them, with n the standard normal numbers
of numpy's `default_rng(crc32(path))`: n / sqrt(fan in) for kernels (fan in: the product of all axes but the last), 1 + 0.1 n
for "scale", "gamma" and "delta", 0.1 n for all else (`tests.weights.drawn`). Data: with r = default_rng(0) four images of
8x8x1, x = clip(r.normal() / 2, -1, 1), then eps = r.normal(). Losses are those of each image at the times TIMES. Samples: of
the four keys split(key(3), 4) each is split into one for the noise at t_max and one for the steps; kept are mean and standard
deviation of the first three samples. Models: SETTINGS. The U-Net's numbers were computed in float32, the RefineNet's in float64
(but for its normalisation's statistics), by the code as it was before paths, predictions, losses and networks were taken apart.
"""

import json
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch
from gm_jax.denoising import make_predictor
from gm_jax.diffusion import samplers
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.langevin import annealed_langevin, consistent_epsilon
from gm_jax.diffusion.losses import denoising_loss
from gm_jax.models import ddpm, ncsn
from gm_jax.nets.backbones import backbone
from tests.weights import drawn
from tests.x64 import x64

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/denoising.json").read_text())
SHAPE, TIMES = (8, 8, 1), {"ddpm": [1.0, 7.0, 40.0, 100.0], "ncsn": [1.0, 2.0, 4.0, 6.0]}
UNET = {"name": "unet", "channels": 16, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,)}
REFINENET = {"name": "refinenet", "channels": 8, "channel_multipliers": (1, 2), "num_res_blocks": 1}
SETTINGS = {
    "ddpm/eps": {"timesteps": 100, "schedule": "linear", "prediction": "eps"},
    "ddpm/v": {"timesteps": 100, "schedule": "cosine", "prediction": "v"},
    "ncsn/v1": {"sigma_max": 2.0, "sigma_min": 0.02, "levels": 6, "conditional": True, "divide_by_sigma": False},
    "ncsn/v2": {"sigma_max": 10.0, "sigma_min": 0.05, "levels": 8, "conditional": False, "divide_by_sigma": True},
}
LANGEVIN = {
    "ncsn/v1": {"epsilon": 8e-5, "inner_steps": 3, "start": "uniform", "denoise": False},
    "ncsn/v2": {"epsilon": consistent_epsilon(0.05, 200 ** (1 / 7), 2), "inner_steps": 2, "start": "uniform", "denoise": True},
}
SAMPLERS = {  # name -> what is kept, the sampler and its number of steps on the nodes
    "ddpm/eps": ("ancestral", partial(samplers.ancestral, variance="fixed_large"), 100),
    "ddpm/v": ("ddim", partial(samplers.ddim, eta=0.5), 10),
    "ncsn/v1": ("langevin", partial(annealed_langevin, **LANGEVIN["ncsn/v1"]), 6),
    "ncsn/v2": ("langevin", partial(annealed_langevin, **LANGEVIN["ncsn/v2"]), 8),
}


def of_ddpm(name, dtype):
    """The model, its network, and what its loss is made of."""
    model, net = ddpm.make(SHAPE, dtype=dtype, network=UNET, **SETTINGS[name]), backbone(UNET, SHAPE, dtype)
    prediction = SETTINGS[name]["prediction"]
    return model, make_predictor(model.diffusion.path, net, prediction, "index"), prediction, None, samplers.clip_x0


def of_ncsn(name, dtype):
    settings = SETTINGS[name]
    model = ncsn.make(SHAPE, dtype, network=REFINENET, **settings)
    net = backbone(REFINENET, SHAPE, dtype, num_levels=settings["levels"] if settings["conditional"] else None)
    prediction = "scaled_score" if settings["divide_by_sigma"] else "score"
    predictor = make_predictor(model.diffusion.path, net, prediction, "index" if settings["conditional"] else "none")
    weight = lambda c: SHAPE[0] * SHAPE[1] / 2 * (c.sigma**0 if settings["divide_by_sigma"] else c.sigma**2)  # noqa: E731
    return model, predictor, prediction, weight, lambda denoiser: denoiser


def numbers(name, dtype):
    """Losses [4] and samples [4, 8, 8, 1]."""
    family = name.partition("/")[0]
    model, predictor, prediction, weight, clip = {"ddpm": of_ddpm, "ncsn": of_ncsn}[family](name, dtype)
    r, path = np.random.default_rng(0), model.diffusion.path
    x, eps = np.clip(r.normal(size=(4, *SHAPE)) * 0.5, -1, 1), r.normal(size=(4, *SHAPE))
    x, eps = jnp.asarray(x, dtype), jnp.asarray(eps, dtype)
    keys = jax.random.split(jax.random.key(3), 4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), Batch(x, None, keys)).params["network"]
    start_keys, step_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    _, make_sampler, steps = SAMPLERS[name]

    @jax.jit
    def compute(params):
        times = jnp.asarray(TIMES[family], dtype)
        losses = denoising_loss(path, prediction, predictor.answer(params), x, times, eps, weight)
        sampler = make_sampler(path, clip(predictor.denoiser(params)))
        x_T = samplers.initial_noise(path, start_keys, SHAPE)
        return losses, samplers.simulate(step_keys, sampler, x_T, time_grid(path, steps, "nodes"))

    return compute(drawn(shapes, dtype))


@pytest.mark.parametrize("name", GOLDEN)
def test_the_numbers_are_those_that_were_kept(name):
    double = name.startswith("ncsn")
    with x64(double):
        losses, samples = numbers(name, jnp.float64 if double else jnp.float32)
    kept, samples = GOLDEN[name], np.asarray(samples[:3], np.float64)
    sampled = kept[SAMPLERS[name][0]]
    np.testing.assert_allclose(losses, kept["loss"], rtol=1e-5)
    for name, found in (("mean", samples.mean((1, 2, 3))), ("std", samples.std((1, 2, 3)))):
        np.testing.assert_allclose(found, sampled[name], rtol=1e-5, atol=2e-6)  # a mean may be close to 0
