"""Annealed Langevin dynamics with NCSN's network (`configs/ncsn.py`, preset cifar10) here and in PyTorch.

    python -m benchmarks.ncsn [--batch=0] [--steps=0] [--rounds=7]

Two of the ten noise levels with `steps` steps each (0: 2 on a CPU, 25 on an accelerator), for `batch` images (0: 8 and 256).
Ours is the model's own sampler, one program that draws its noise from one key per image. PyTorch loops in Python over the
network, eager or compiled, in channels_last and in inference mode. float32 on a CPU, bfloat16 on a GPU.

Checked in float32: equal parameter counts; equal scores from the same parameters; and equal samples from the same noise (to
TOLERANCE of the largest value).

Needs PyTorch (`pip install torch`).
"""

import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from benchmarks import torch_nets
from benchmarks.measure import OURS, Row, compare, main
from benchmarks.torch_nets import DEVICE, torch
from configs.ncsn import get_config
from gm_jax.build import build_model, compute_dtype, resolve
from gm_jax.core import Batch, Variables, streams
from gm_jax.diffusion.grids import time_grid
from gm_jax.diffusion.predictions import to_eps
from gm_jax.diffusion.samplers import normal
from gm_jax.nets.backbones import PAPER_MULTIPLIERS
from gm_jax.system.devices import jit

SHAPE = (32, 32, 3)
LEVELS = 2  # that are visited
TOLERANCE = 1e-4


def rows(options: Any) -> Iterator[Row]:
    on_cpu = jax.default_backend() == "cpu"
    batch, inner_steps = options.batch or (8 if on_cpu else 256), options.steps or (2 if on_cpu else 25)
    config = resolve(get_config("cifar10").to_dict())
    with torch_nets.exact():
        ours, theirs = sides(config | {"precision": "float32"}, batch, inner_steps)
        for sampler in theirs.values():
            assert torch_nets.count(sampler.net) == ours.parameters, "different numbers of parameters"
        check_scores(ours, theirs)
        check_samples(ours, theirs)

    ours, theirs = sides(config, batch, inner_steps)
    variants = {OURS: ours.sample} | {name: sampler.sample for name, sampler in theirs.items()}
    for sample in variants.values():  # compiles
        sample()
    path, per = f"annealed Langevin (NCSN), batch {batch}, per step", LEVELS * inner_steps
    dtype = compute_dtype(config["precision"]).name
    yield compare(path, f"step of {batch} images", variants, rounds=options.rounds, per=per, note=dtype)


def sides(config: dict[str, Any], batch: int, inner_steps: int) -> tuple["Ours", dict[str, "Theirs"]]:
    ours = Ours(config, batch, inner_steps)
    return ours, {name: Theirs(config, ours, wrap) for name, wrap in torch_nets.variants().items()}


def check_scores(ours: "Ours", theirs: dict[str, "Theirs"]) -> None:
    """At another level for every half of the batch."""
    x = np.random.default_rng(1).standard_normal((ours.batch, *SHAPE), np.float32)
    t = np.where(np.arange(ours.batch) % 2, *ours.times())
    expected = ours.score(x, t)
    for name, sampler in theirs.items():
        close(f"{name}, scores", expected, sampler.score(tensor(x), tensor(t - 1)).cpu().numpy())


def check_samples(ours: "Ours", theirs: dict[str, "Theirs"]) -> None:
    """From the same noise."""
    expected = ours.sample()
    for name, sampler in theirs.items():
        start, *noise = map(tensor, ours.noise())
        close(f"{name}, samples", expected, sampler.sample(start, iter(noise)))


def tensor(a: np.ndarray) -> torch.Tensor:
    return torch.tensor(a, device=DEVICE)


def close(what: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """AssertionError unless equal to `TOLERANCE` of the largest value."""
    error = np.abs(ours - theirs).max() / np.abs(ours).max()
    print(f"  {what}: relative error {error:.1e}", file=sys.stderr)
    assert error < TOLERANCE, f"{what} differ"


class Ours:
    """The model's own sampler, as one program."""

    def __init__(self, config: dict[str, Any], batch: int, inner_steps: int):
        model = build_model(config, SHAPE, None)
        example = Batch(jnp.zeros((1, *SHAPE)), None, jax.random.split(jax.random.key(0), 1))
        self.params = torch_nets.random_params(jax.eval_shape(model.init, jax.random.key(0), example).params)
        self.parameters = sum(a.size for a in jax.tree.leaves(self.params))
        self.variables, self.keys = Variables(jax.device_put(self.params)), jax.random.split(jax.random.key(1), batch)
        self.batch, self.inner_steps, self.diffusion = batch, inner_steps, model.diffusion
        self.sampler = jit(partial(model.sample, steps=LEVELS, inner_steps=inner_steps))

    def sample(self) -> np.ndarray:
        return np.asarray(self.sampler(self.variables, self.keys))

    def score(self, x: np.ndarray, t: np.ndarray) -> np.ndarray:
        def score(variables, x, t):
            path, denoise = self.diffusion.path, self.diffusion.denoiser(variables)
            return -to_eps(path, denoise(x, t), x, t) / path.sigma(t)[:, None, None, None]

        return np.asarray(jit(score)(self.variables, x, np.float32(t)))

    def times(self) -> list[int]:
        """The levels visited, counted from 1 at the smallest."""
        return [int(t) for t in time_grid(self.diffusion.path, LEVELS, "nodes")[:-1]]

    def noise(self) -> list[np.ndarray]:
        """The uniform noise that `sample` starts from, then the normal noise of each of its steps."""
        start, keys = streams(self.keys, "start", "steps")
        fold_in = jax.vmap(jax.random.fold_in, (0, None))
        of_step = jax.jit(lambda i, k: normal(fold_in(fold_in(keys, i), k), SHAPE))
        steps = [of_step(i, k) for i in range(LEVELS) for k in range(self.inner_steps)]
        return [np.asarray(a) for a in (2 * ndtr(normal(start, SHAPE)) - 1, *steps)]


class Theirs:
    """The same in PyTorch; `wrap` compiles the network, or not."""

    def __init__(self, config: dict[str, Any], ours: Ours, wrap: Callable):
        self.model, self.batch, self.inner_steps, self.times = config["model"], ours.batch, ours.inner_steps, ours.times()
        network, levels = self.model["network"], self.model["levels"]
        multipliers = network["channel_multipliers"] or PAPER_MULTIPLIERS
        net = torch_nets.RefineNet(SHAPE[-1], network["channels"], multipliers, network["num_res_blocks"], levels)
        self.net = torch_nets.with_params(net, ours.params["network"]).eval()
        self.forward, self.low = wrap(self.net), compute_dtype(config["precision"]) == jnp.bfloat16

    @torch.inference_mode()
    def score(self, x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=self.low):
            return self.forward(x, level)

    @torch.inference_mode()
    def sample(self, start: torch.Tensor | None = None, noise: Iterator[torch.Tensor] | None = None) -> np.ndarray:
        """Draws what it starts from and the noise of each step, unless they are given."""
        sigma_min, sigma_max = self.model["sigma_min"], self.model["sigma_max"]
        x = 2 * torch.rand(self.batch, *SHAPE, device=DEVICE) - 1 if start is None else start
        for t in self.times:
            level = torch.full((self.batch,), t - 1, device=DEVICE)
            ratio = (sigma_max / sigma_min) ** ((t - 1) / (self.model["levels"] - 1))
            alpha = self.model["epsilon"] * ratio**2
            for _ in range(self.inner_steps):
                z = torch.randn_like(x) if noise is None else next(noise)
                x = x + alpha * self.score(x, level) + math.sqrt(2 * alpha) * z
        return x.cpu().numpy()


if __name__ == "__main__":
    main(rows, __doc__, batch=0, steps=0)
