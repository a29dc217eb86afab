# %% [markdown]
# # A diffusion model by hand
# The functions of `gm_jax` without its trainer: a DDPM is trained on 8x8 digits, sampled with DDIM, and judged.
# `python examples/pure_functions.py` takes about 20 seconds on one CPU core; STEPS=100 before it trains for less.

# %%
import os
from functools import partial

import jax
import numpy as np
import optax

from gm_jax.data.sources import load_digits
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.paths import discrete_path
from gm_jax.diffusion.predictions import to_x0
from gm_jax.diffusion.samplers import clip_x0, ddim
from gm_jax.images import to_float, to_uint8
from gm_jax.metrics import frechet_distance, from_callable
from gm_jax.models.ddpm import UNet, get_beta_schedule, p_losses, sample

STEPS, BATCH, T = int(os.environ.get("STEPS", 400)), 64, 1000
digits = load_digits()  # uint8 [n, 8, 8, 1]
x_train = to_float(digits.x_train)  # in [-1, 1]

# %% [markdown]
# The path x_t = alpha_t x0 + sigma_t eps, the network that tells eps from x_t and t, and a step of training.

# %%
path = discrete_path(get_beta_schedule("cosine", T))
unet = UNet(out_channels=1, channels=16, channel_multipliers=(1,), num_res_blocks=1, attention_resolutions=())
optimizer = optax.adam(optax.cosine_decay_schedule(4e-3, STEPS))


def predictor(params):
    return lambda x_t, t: unet.apply(params, x_t, t)


@jax.jit
def train_step(params, opt_state, key, x0):
    t_key, eps_key = jax.random.split(key)
    t = jax.random.randint(t_key, (len(x0),), 1, T + 1)
    eps = jax.random.normal(eps_key, x0.shape)
    loss, grads = jax.value_and_grad(lambda p: p_losses(path, predictor(p), x0, t, eps).mean())(params)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


# %%
key, rng, losses = jax.random.key(0), np.random.default_rng(0), []
params = jax.jit(unet.init)(key, x_train[:1], np.zeros(1))
opt_state = optimizer.init(params)
for step in range(STEPS):
    x0 = x_train[rng.choice(len(x_train), BATCH)]
    params, opt_state, loss = train_step(params, opt_state, jax.random.fold_in(key, step), x0)
    losses.append(float(loss))
    if (step + 1) % 100 == 0:
        print(f"step {step + 1}: loss {np.mean(losses[-100:]):.3f}")


# %% [markdown]
# A sampler knows a denoiser, E[x0 | x_t], and no network. 25 steps of DDIM, one key per image.


# %%
@jax.jit
def draw(params, keys):
    def denoiser(x_t, t):
        return to_x0(path, "eps", predictor(params)(x_t, t), x_t, t)

    return sample(path, clip_x0(denoiser), keys, (8, 8, 1), sampler=partial(ddim, eta=0.0), times=time_grid(path, 25, "nodes"))


samples = to_uint8(draw(params, jax.random.split(jax.random.key(1), len(digits.x_test))))

# %% [markdown]
# A Frechet distance takes any function of uint8 images as its features: here the 16 means of 2x2 pixels.


# %%
def means(images):
    return images.reshape(len(images), 4, 2, 4, 2).mean((2, 4)).reshape(len(images), 16) / 255


extractor = from_callable(means, "means")
noise = rng.integers(256, size=samples.shape, dtype=np.uint8)
for name, images in {"real": digits.x_test, "samples": np.asarray(samples), "noise": noise}.items():
    print(f"distance of {len(images)} {name} images to the training images: ", end="")
    print(f"{frechet_distance(images, digits.x_train, extractor):.4f}")
