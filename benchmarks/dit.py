"""DiT here and in PyTorch: the train step of flow matching with DiT-S/2 on images of 32x32.

    python -m benchmarks.dit [--batch=16] [--rounds=5]

The default is for a CPU; on a GPU the batch is 128. Needs PyTorch (`pip install torch`) and a C++ compiler, with which
`torch.compile` takes minutes. PyTorch with its own scaled_dot_product_attention, eager and compiled.

The step of `configs/flow_matching.py` with network.name=dit: times and noise, the network forward and backward, gradients
clipped, Adam with warm-up (fused in PyTorch) and averaged weights. float32 on a CPU; bfloat16 (autocast in PyTorch) on a GPU.

Checked before, in float32 and from the same random weights: the number of parameters, and the losses of two updates from the
same images, times and noise.
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
from benchmarks.torch_dit import DiT, load
from benchmarks.torch_nets import DEVICE, ON_GPU, exact, torch, variants
from configs.flow_matching import get_config
from gm_jax.build import build_model, resolve
from gm_jax.core import streams
from gm_jax.diffusion import losses, samplers
from gm_jax.training.batches import make_batch
from gm_jax.training.run import STEPS_PER_DISPATCH

PARAMETERS = 32_471_436


def rows(options: Any) -> Iterator[Row]:
    config = get_config().to_dict()
    config = resolve(config | {"model": config["model"] | {"network": {"name": "dit"}}})
    variables = random_variables(build_model(config, SHAPE, None))
    batch = options.batch or (128 if ON_GPU else 16)
    with exact():
        check_updates(config | {"precision": "float32"}, variables)
    k = STEPS_PER_DISPATCH if ON_GPU else 1
    images = random_images(k, batch)
    ours, theirs = jnp.asarray(images), torch.stack([to_torch(x) for x in images])
    net = torch_network(variables).train()
    timed = {OURS: partial(Training(config, variables).run, ours)}
    timed |= {name: partial(TorchTraining(config, net, wrap(net)).run, theirs) for name, wrap in variants().items()}
    for run in timed.values():  # compiles
        run()
    path = f"flow matching train step, DiT-S/2 of {PARAMETERS / 1e6:.1f}M parameters, batch {batch}"
    yield compare(path, "step", timed, rounds=options.rounds, per=k, note=precision(config))


def torch_network(variables: Any) -> DiT:
    """With these weights."""
    net = DiT()
    load(net, variables.params["network"])
    return net.to(DEVICE)


class TorchTraining:
    """The same in PyTorch, of a network that is called by `forward`: itself, or itself compiled."""

    def __init__(self, config: Config, net: DiT, forward: Callable):
        self.settings, self.forward, self.count = config["optimizer"], forward, 0
        self.autocast = partial(autocast, config)
        self.parameters = list(net.parameters())
        self.averages = [p.detach().clone() for p in self.parameters]
        adam = self.settings
        self.adam = torch.optim.Adam(self.parameters, betas=(adam["b1"], adam["b2"]), eps=adam["eps"], fused=True)

    def run(self, images: Any) -> float:
        """As many steps as there are batches in uint8 [k, b, C, H, W]; the last loss."""
        for batch in images:
            x = batch.float() / 127.5 - 1
            loss = self.update(x, torch.rand(len(x), device=DEVICE), torch.randn_like(x))
        synchronize()
        return loss.item()

    def update(self, x0: Any, t: Any, eps: Any) -> Any:
        self.adam.zero_grad(set_to_none=True)
        share = t[:, None, None, None]
        with self.autocast():
            answer = self.forward((1 - share) * x0 + share * eps, 999 * t)
        loss = ((answer - (eps - x0)) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["clip_norm"], foreach=True)
        self.adam.param_groups[0]["lr"] = self.settings["learning_rate"] * min(
            1, (self.count + 1) / self.settings["warmup_steps"]
        )
        self.adam.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1 - self.settings["ema_decay"])
        self.count += 1
        return loss


def check_updates(config: Config, variables: Any) -> None:
    """The parameters' number, and the losses of two updates."""
    ours, net = Training(config, variables), torch_network(variables)
    counts = [sum(a.size for a in jax.tree.leaves(variables.params)), sum(p.numel() for p in net.parameters())]
    assert counts == [PARAMETERS, PARAMETERS], counts
    theirs, draw = TorchTraining(config, net, net), losses.uniform(build_model(config, SHAPE, None).diffusion.path)
    images = jnp.asarray(random_images(1, 4))
    for step in range(2):
        batch = make_batch(ours.keys, step, jnp.arange(4), images[0], None, config["data"]["flip"])
        time_keys, noise_keys = streams(batch.keys, "time", "noise")  # as in the model's loss
        t, eps = np.asarray(jax.vmap(draw)(time_keys)), samplers.normal(noise_keys, SHAPE)
        loss = ours.run(images)
        other = theirs.update(to_torch(batch.x), torch.tensor(t, device=DEVICE), to_torch(eps))
        check(f"loss of update {step + 1}", abs(loss / other.item() - 1), 1e-5)


if __name__ == "__main__":
    main(rows, __doc__, batch=0)
