"""SN-GAN here and in PyTorch: an update of the critic and one of the generator, at the size of the paper's residual networks.

    python -m benchmarks.gan [--batch=16] [--rounds=5]

The default is for a CPU; on a GPU the batch is 64. Needs PyTorch (`pip install torch`) and a C++ compiler, with which
`torch.compile` takes minutes. PyTorch in channels_last, eager and compiled, with its own spectral_norm and fused Adam.

The steps of `configs/gan.py` with one update of the critic for each of the generator: noise on the real images, hinge loss,
spectral norm, twice the batch for the generator, Adam for both, averaged weights of the generator. float32 on both sides.

Checked before, from the same random weights: the numbers of parameters, and the generator's images.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.ddpm import SHAPE, Config, check, random_images, random_variables, synchronize, to_numpy, to_torch
from benchmarks.measure import OURS, Row, compare, main
from benchmarks.torch_gan import Critic, Generator, load
from benchmarks.torch_nets import DEVICE, ON_GPU, exact, torch, variants
from configs.gan import get_config
from gm_jax.build import build_model, resolve
from gm_jax.core import Batch
from gm_jax.system.devices import jit
from gm_jax.training import learning
from gm_jax.training.batches import seed_keys
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.run import STEPS_PER_DISPATCH

PARAMETERS = (4_276_739, 1_053_825)


def rows(options: Any) -> Iterator[Row]:
    config = get_config().to_dict()
    config = resolve(config | {"precision": "float32", "model": config["model"] | {"n_critic": 1}})
    model = build_model(config, SHAPE, None)
    variables = model.init(jax.random.key(0), random_batch())
    with exact():
        check_players(model, variables)
    k, batch = STEPS_PER_DISPATCH if ON_GPU else 1, options.batch or (64 if ON_GPU else 16)
    images = random_images(k, batch)
    ours, theirs = jnp.asarray(images), torch.stack([to_torch(x) for x in images])
    timed = {OURS: partial(Training(config, variables).run, ours)}
    timed |= {name: partial(TorchTraining(config, variables, wrap).run, theirs) for name, wrap in variants().items()}
    for run in timed.values():  # compiles
        run()
    path = f"SN-GAN, an update of both players, {sum(PARAMETERS) / 1e6:.1f}M parameters, batch {batch}"
    yield compare(path, "step", timed, rounds=options.rounds, per=k, note="float32")


def random_batch() -> Batch:
    return Batch(jnp.zeros((2, *SHAPE)), None, jax.random.split(jax.random.key(0), 2))


class Training:
    """gm_jax: the step and the dispatch of `train.py`."""

    def __init__(self, config: Config, variables: Any):
        model = build_model(config, SHAPE, None)
        optimizers = build_optimizers(config, model)
        step = learning.make_train_step(model, optimizers, seed_keys(config["seed"]))
        self.dispatch = jit(learning.make_dispatch(step), static_argnums=4, donate_argnums=0)
        self.state = learning.with_variables(model, optimizers, jax.tree.map(jnp.array, variables))

    def run(self, images: Any) -> None:
        """As many steps as there are batches in uint8 [k, b, H, W, C]."""
        self.state, _, _ = self.dispatch(self.state, images, None, jnp.int32(len(images)), ("critic", "generator"))
        jax.block_until_ready(self.state)


class TorchTraining:
    """The same in PyTorch; `wrap` compiles both networks, or leaves them as they are."""

    def __init__(self, config: Config, variables: Any, wrap: Callable):
        self.generator, critic = players(variables)
        self.critic = critic.normalized()
        self.make, self.judge = wrap(self.generator), wrap(self.critic)
        settings = config["optimizer"]
        adam = partial(torch.optim.Adam, lr=settings["learning_rate"], betas=(0.0, 0.9), eps=settings["eps"], fused=True)
        self.adams = adam(self.generator.parameters()), adam(self.critic.parameters())
        self.parameters = list(self.generator.parameters())
        self.averages = [p.detach().clone() for p in self.parameters]
        self.decay = settings["generator"]["ema_decay"]

    def run(self, images: Any) -> None:
        """As many steps as there are batches in uint8 [k, b, C, H, W]."""
        for batch in images:
            real = batch.float() / 127.5 - 1
            self.update(real + (torch.rand_like(real) - 0.5) * 2 / 255)
        synchronize()

    def update(self, real: Any) -> None:
        n, (of_generator, of_critic) = len(real), self.adams
        with torch.no_grad():
            fake = self.make(torch.randn(n, 128, device=DEVICE))
        # in one pass: a second one would move the spectral norms' vectors before the first one's gradient is known
        of_real, of_fake = self.judge(torch.cat([real, fake])).chunk(2)
        loss = torch.relu(1 - of_real).mean() + torch.relu(1 + of_fake).mean()
        of_critic.zero_grad(set_to_none=True)
        loss.backward()
        of_critic.step()
        for parameter in self.critic.parameters():
            parameter.requires_grad_(False)
        loss = -self.judge(self.make(torch.randn(2 * n, 128, device=DEVICE))).mean()
        of_generator.zero_grad(set_to_none=True)
        loss.backward()
        of_generator.step()
        for parameter in self.critic.parameters():
            parameter.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1 - self.decay)


def players(variables: Any) -> tuple[Generator, Critic]:
    """With these weights, in training, in channels_last."""
    found = Generator(), Critic()
    for player, name in zip(found, ("generator", "critic"), strict=True):
        load(player, variables.params[name])
    return tuple(player.to(DEVICE, memory_format=torch.channels_last).train() for player in found)


def check_players(model: Any, variables: Any) -> None:
    """The parameters' numbers, and the images of the generator in evaluation from random weights."""
    drawn = random_variables(model)
    state = drawn.state["generator"] | {"statistics": jax.tree.map(jnp.abs, drawn.state["generator"]["statistics"])}
    state = {**drawn.state, "generator": state}
    theirs = players(drawn)
    counts = tuple(sum(p.numel() for p in player.parameters()) for player in theirs)
    assert counts == PARAMETERS, counts
    (latent,) = model.latents
    keys = jax.random.split(jax.random.key(1), 4)
    z = latent.draw(drawn, keys)
    for name, layer in theirs[0].layers.items():
        if "norm" in name:
            statistics = state["generator"]["statistics"][name]["norm"]
            layer.running_mean.copy_(torch.tensor(np.asarray(statistics["mean"])))
            layer.running_var.copy_(torch.tensor(np.asarray(statistics["var"])))
    with torch.no_grad():
        other = to_numpy(theirs[0].eval()(torch.tensor(np.asarray(z), device=DEVICE)))
    check("images", np.abs(latent.decode(drawn._replace(state=state), keys, z) - other).max(), 1e-4)


if __name__ == "__main__":
    main(rows, __doc__, batch=0)
