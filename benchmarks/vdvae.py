"""VDVAE here and in PyTorch: the train step of CIFAR-10's network of 39.1M parameters.

    python -m benchmarks.vdvae [--batch=2] [--rounds=5]

The default is for a CPU; on a GPU the batch is 32. Needs PyTorch (`pip install torch`) and a C++ compiler, with which
`torch.compile` takes many minutes. PyTorch in channels_last, eager and compiled.

The step of `configs/vdvae.py`: noise, the network forward and backward, gradients clipped, or the update skipped, AdamW with
warm-up (fused in PyTorch) and averaged weights. float32 on a CPU; bfloat16 (autocast in PyTorch) on a GPU.

Checked before, in float32 and from the same random weights: the number of parameters, and the losses of two updates from the
same images and noise.
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
    Training,
    autocast,
    check,
    precision,
    random_images,
    random_variables,
    synchronize,
    to_torch,
)
from benchmarks.measure import OURS, Row, compare, main
from benchmarks.torch_nets import DEVICE, ON_GPU, count, exact, torch, variants
from benchmarks.torch_vdvae import VDVAE, distortion, load
from configs.vdvae import get_config
from gm_jax.build import build_model, resolve
from gm_jax.core import streams
from gm_jax.training.batches import make_batch
from gm_jax.training.run import STEPS_PER_DISPATCH
from gm_jax.variational import standard_normal

PARAMETERS, LATENTS, DIMS = 39_145_700, 412_432, 3072


def rows(options: Any) -> Iterator[Row]:
    config = resolve(get_config().to_dict())
    variables = smaller(random_variables(build_model(config, SHAPE, None)))
    batch = options.batch or (32 if ON_GPU else 2)
    with exact():
        check_updates(config | {"precision": "float32"}, variables)
    k = STEPS_PER_DISPATCH if ON_GPU else 1
    images = random_images(k, batch)
    ours, theirs = jnp.asarray(images), torch.stack([to_torch(x) for x in images])
    net = torch_network(config, variables)
    timed = {OURS: partial(Training(config, variables).run, ours)}
    timed |= {name: partial(TorchTraining(config, net, wrap(net)).run, theirs) for name, wrap in variants().items()}
    for run in timed.values():  # compiles
        run()
    path = f"VDVAE train step, {PARAMETERS / 1e6:.1f}M parameters, batch {batch}"
    yield compare(path, "step", timed, rounds=options.rounds, per=k, note=precision(config))


def smaller(variables: Any) -> Any:
    """Random weights under which 43 groups of latents do not grow beyond all bounds."""
    return jax.tree_util.tree_map_with_path(lambda path, a: a / 2 if path[-1].key == "kernel" else a, variables)


def torch_network(config: Config, variables: Any) -> VDVAE:
    """With these weights."""
    return load(VDVAE(config["model"], 10 * config["model"]["components"]), variables.params).train()


class TorchTraining:
    """The same in PyTorch, of a network that is called by `forward`: itself, or itself compiled."""

    def __init__(self, config: Config, net: VDVAE, forward: Callable):
        self.settings, self.forward, self.count = config["optimizer"], forward, 0
        self.autocast = partial(autocast, config)
        self.parameters = list(net.parameters())
        self.averages = [p.detach().clone() for p in self.parameters]
        s = self.settings
        decay = {"weight_decay": s["weight_decay"], "betas": (s["b1"], s["b2"]), "eps": s["eps"]}
        self.adam = torch.optim.AdamW(self.parameters, fused=True, **decay)

    def run(self, images: Any) -> float:
        """As many steps as there are batches in uint8 [k, b, C, H, W]; the last loss."""
        for batch in images:
            loss = self.update(batch.float() / 127.5 - 1, torch.randn(len(batch), LATENTS, device=DEVICE))
        synchronize()
        return loss.item()

    def update(self, x: Any, noise: Any) -> Any:
        self.adam.zero_grad(set_to_none=True)
        with self.autocast():
            answer, rate = self.forward(noise, x)
        loss = (distortion(answer, x).mean() + rate.mean()) / DIMS
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["clip_norm"], foreach=True)
        if norm < self.settings["skip_norm"]:
            warmup = min(1, (self.count + 1) / self.settings["warmup_steps"])
            self.adam.param_groups[0]["lr"] = self.settings["learning_rate"] * warmup
            self.adam.step()
            with torch.no_grad():
                torch._foreach_lerp_(self.averages, self.parameters, 1 - self.settings["ema_decay"])
            self.count += 1
        return loss


def check_updates(config: Config, variables: Any) -> None:
    """The parameters' number, and the losses of two updates."""
    ours, net = Training(config, variables), torch_network(config, variables)
    counts = [sum(a.size for a in jax.tree.leaves(variables.params)), count(net)]
    assert counts == [PARAMETERS, PARAMETERS], counts
    theirs, images = TorchTraining(config, net, net), jnp.asarray(random_images(1, 2))
    for step in range(2):
        batch = make_batch(ours.keys, step, jnp.arange(2), images[0], None, config["data"]["flip"])
        noise = standard_normal(*streams(batch.keys, "latents"), LATENTS)  # as in the model's loss
        loss = ours.run(images)
        other = theirs.update(to_torch(batch.x), torch.tensor(np.asarray(noise), device=DEVICE))
        check(f"loss of update {step + 1}", abs(loss / other.item() - 1), 1e-4)


if __name__ == "__main__":
    main(rows, __doc__, batch=0)
