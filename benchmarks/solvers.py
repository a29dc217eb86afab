"""DPM-Solver++(2M) here and in diffusers: a step with the U-Net of DDPM, and the solver's own share of it.

    python -m benchmarks.solvers [--batch=16] [--steps=10] [--rounds=5]

These are the defaults on a CPU; on a GPU 256 and 20. Needs PyTorch and diffusers (`pip install -e '.[bench]'`) and a C++
compiler, with which `torch.compile` takes minutes.

diffusers' loop is that of its pipelines: the network, then `DPMSolverMultistepScheduler.step`, for each step. The network is
that of `benchmarks/ddpm.py`, with the same random weights, in channels_last, eager and compiled. In the second row a network
answers nothing, so that the solver alone is timed.

Checked before: that both make the same images of the same noise.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ddpm import (
    SHAPE,
    Config,
    autocast,
    check,
    precision,
    random_variables,
    synchronize,
    to_numpy,
    to_torch,
    torch_network,
)
from benchmarks.measure import OURS, Row, compare, main
from benchmarks.torch_nets import DEVICE, ON_GPU, exact, torch, variants
from configs.ddpm import get_config
from gm_jax.build import build_model, resolve
from gm_jax.diffusion import samplers
from gm_jax.diffusion.dpm_solver import dpmpp_2m
from gm_jax.diffusion.grids import time_grid
from gm_jax.models.ddpm import get_beta_schedule
from gm_jax.system.devices import jit


def rows(options: Any) -> Iterator[Row]:
    config = resolve(get_config().to_dict())
    variables = random_variables(build_model(config, SHAPE, None))
    net = torch_network(config, variables).eval()
    batch, steps = options.batch or (256 if ON_GPU else 16), options.steps or (20 if ON_GPU else 10)
    noise = np.random.default_rng(0).standard_normal((batch, *SHAPE), np.float32)
    with exact():
        float32 = config | {"precision": "float32"}
        ours = loop(float32, variables, steps)(jnp.asarray(noise))
        theirs = to_numpy(torch_loop(float32, net, steps, to_torch(noise)))
        check("images", np.abs(ours - theirs).max() / np.std(ours), 2e-3)  # their tables are float32
    for title, ours, calls in (
        ("DPM-Solver++(2M)", loop(config, variables, steps), {name: wrap(net) for name, wrap in variants().items()}),
        ("DPM-Solver++(2M) alone", loop(config, None, steps), {"diffusers": lambda x, t: 0 * x}),
    ):
        timed = {OURS: partial(run, ours, jnp.asarray(noise))}
        x = to_torch(noise).to(memory_format=torch.channels_last)
        timed |= {name: partial(torch_loop, config, call, steps, x) for name, call in calls.items()}
        for each in timed.values():  # compiles
            each()
        path, unit = f"{title}, batch {batch}, per step", f"step of {batch} images"
        yield compare(path, unit, timed, rounds=options.rounds, per=steps, note=precision(config))


def run(draw: Callable, x: Any) -> Any:
    return jax.block_until_ready(draw(x))


def loop(config: Config, variables: Any, steps: int) -> Callable:
    """gm_jax: noise -> images, one program; without variables that of a network that answers nothing."""
    model = build_model(config, SHAPE, None)
    path = model.diffusion.path
    keys, times = jax.random.split(jax.random.key(0), 1), time_grid(path, steps, "nodes")

    def draw(variables, x):
        denoiser = (lambda x_t, t: x_t / path.alpha(t)) if variables is None else model.diffusion.denoiser(variables)
        return samplers.simulate(jnp.broadcast_to(keys, len(x)), dpmpp_2m(path, denoiser), x, times)

    return partial(jit(draw), jax.device_put(variables))


@torch.inference_mode()
def torch_loop(config: Config, forward: Callable, steps: int, x: Any) -> Any:
    """diffusers: the same over the same steps of the chain."""
    from diffusers import DPMSolverMultistepScheduler

    model = config["model"]
    scheduler = DPMSolverMultistepScheduler(
        model["timesteps"],
        trained_betas=get_beta_schedule(model["schedule"], model["timesteps"]),
        timestep_spacing="trailing",
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        with autocast(config):
            eps = forward(x, t.to(DEVICE).expand(len(x)))
        x = scheduler.step(eps, t, x).prev_sample
    synchronize()
    return x


if __name__ == "__main__":
    main(rows, __doc__, batch=0, steps=0)
