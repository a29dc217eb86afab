"""EDM here and in PyTorch: the train step of the paper's CIFAR-10 network DDPM++ of 55.7M parameters.

    python -m benchmarks.edm [--batch=8] [--rounds=5]

The default is for a CPU; on a GPU the batch is 128. Needs PyTorch (`pip install torch`) and a C++ compiler, with which
`torch.compile` takes minutes. PyTorch in channels_last, eager and compiled.

The step of `configs/edm.py` without augmentation: noise levels and noise, the preconditioned network forward and backward, Adam
with warm-up (fused in PyTorch) and averaged weights. float32 on a CPU; bfloat16 (autocast in PyTorch) on a GPU. A second row is
what augmentation, which PyTorch users have no package for, adds to our own step.

Checked before, in float32 and from the same random weights without dropout: the number of parameters, and the losses of two
updates from the same images, noise levels and noise.
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
from benchmarks.torch_nets import DEVICE, ON_GPU, exact, torch, variants
from benchmarks.torch_song_unet import SongUNet, load
from configs.edm import get_config
from gm_jax.build import build_model, resolve
from gm_jax.core import streams
from gm_jax.diffusion import losses, samplers
from gm_jax.training.batches import make_batch
from gm_jax.training.run import STEPS_PER_DISPATCH

PARAMETERS = 55_732_739


def rows(options: Any) -> Iterator[Row]:
    augmented = resolve(get_config().to_dict())
    config = changed(augmented, "model", augment_probability=0.0)
    variables = random_variables(build_model(config, SHAPE, None))
    batch = options.batch or (128 if ON_GPU else 8)
    with exact():
        check_updates(changed(config, "precision"), variables)
    k = STEPS_PER_DISPATCH if ON_GPU else 1
    images = random_images(k, batch)
    ours, theirs = jnp.asarray(images), torch.stack([to_torch(x) for x in images])
    net = torch_network(config, variables).train()
    timed = {OURS: partial(Training(config, variables).run, ours)}
    timed |= {name: partial(TorchTraining(config, net, wrap(net)).run, theirs) for name, wrap in variants().items()}
    for run in timed.values():  # compiles
        run()
    path = f"EDM train step, DDPM++ of {PARAMETERS / 1e6:.1f}M parameters, batch {batch}"
    yield compare(path, "step", timed, rounds=options.rounds, per=k, note=precision(config))
    told = random_variables(build_model(augmented, SHAPE, None))
    timed = {OURS: partial(Training(augmented, told).run, ours), "without augmentation": timed[OURS]}
    timed[OURS]()
    yield compare(f"EDM train step with augmentation, batch {batch}", "step", timed, rounds=options.rounds, per=k)


def changed(config: Config, section: str, **fields: Any) -> Config:
    """The config with these fields of a section; of "precision": float32."""
    return config | {section: "float32" if section == "precision" else config[section] | fields}


def torch_network(config: Config, variables: Any, dropout: float | None = None) -> SongUNet:
    """The preset's network with these weights; `dropout` instead of the preset's."""
    network = config["model"]["network"]
    net = SongUNet(dropout=network["dropout"] if dropout is None else dropout)
    load(net, variables.params["network"])
    return net.to(DEVICE, memory_format=torch.channels_last)


class TorchTraining:
    """The same in PyTorch, of a network that is called by `forward`: itself, or itself compiled."""

    def __init__(self, config: Config, net: SongUNet, forward: Callable):
        self.settings, self.model, self.forward, self.count = config["optimizer"], config["model"], forward, 0
        self.autocast = partial(autocast, config)
        self.parameters = list(net.parameters())
        self.averages = [p.detach().clone() for p in self.parameters]
        adam = self.settings
        self.adam = torch.optim.Adam(self.parameters, betas=(adam["b1"], adam["b2"]), eps=adam["eps"], fused=True)

    def run(self, images: Any) -> float:
        """As many steps as there are batches in uint8 [k, b, C, H, W]; the last loss."""
        for batch in images:
            x = batch.float() / 127.5 - 1
            sigma = torch.exp(self.model["P_mean"] + self.model["P_std"] * torch.randn(len(x), device=DEVICE))
            loss = self.update(x, sigma, torch.randn_like(x))
        synchronize()
        return loss.item()

    def update(self, x0: Any, sigma: Any, eps: Any) -> Any:
        self.adam.zero_grad(set_to_none=True)
        data, level = self.model["sigma_data"], sigma[:, None, None, None]
        c_in = torch.rsqrt(level**2 + data**2)
        target = (level * x0 / data - data * eps) * c_in
        with self.autocast():
            answer = self.forward(c_in * (x0 + level * eps), sigma.log() / 4)
        loss = ((answer - target) ** 2).sum() / len(x0)
        loss.backward()
        self.adam.param_groups[0]["lr"] = self.settings["learning_rate"] * min(
            1, (self.count + 1) / self.settings["warmup_steps"]
        )
        self.adam.step()
        decay = min(self.settings["ema_decay"], 0.5 ** (1 / max(self.settings["ema_ramp"] * self.count, 1e-8)))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        self.count += 1
        return loss


def check_updates(config: Config, variables: Any) -> None:
    """The parameters' number, and the losses of two updates."""
    config = changed(config, "model", network=config["model"]["network"] | {"dropout": 0.0})
    ours, net = Training(config, variables), torch_network(config, variables, 0.0)
    counts = [sum(a.size for a in jax.tree.leaves(variables.params)), sum(p.numel() for p in net.parameters())]
    assert counts == [PARAMETERS, PARAMETERS], counts
    theirs, path = TorchTraining(config, net, net), build_model(config, SHAPE, None).diffusion.path
    draw = losses.log_normal(path, config["model"]["P_mean"], config["model"]["P_std"])
    images = jnp.asarray(random_images(1, 4))
    for step in range(2):
        batch = make_batch(ours.keys, step, jnp.arange(4), images[0], None, config["data"]["flip"])
        time_keys, noise_keys = streams(batch.keys, "time", "noise")  # as in the model's loss
        sigma, eps = np.asarray(jax.vmap(draw)(time_keys)), samplers.normal(noise_keys, SHAPE)
        loss = ours.run(images)
        other = theirs.update(to_torch(batch.x), torch.tensor(sigma, device=DEVICE), to_torch(eps))
        check(f"loss of update {step + 1}", abs(loss / other.item() - 1), 1e-5)


if __name__ == "__main__":
    main(rows, __doc__, batch=0)
