"""A train step of the ConvVAE (`configs/vae.py`, preset cifar10) here and in PyTorch.

    python -m benchmarks.vae [--batch=128] [--rounds=7]

The whole step, from uint8 images on the device to new parameters: random flips, encoder, a draw of z, decoder, loss, backward
pass, Adam with warm-up, moving average of the parameters. PyTorch runs eagerly and compiled, in channels_last, with fused Adam;
both sides in float32 on a CPU and bfloat16 on a GPU. Ours also reports the gradient's norm and looks for numbers that are not
finite, as it does in training.

Checked: equal parameter counts; and that one update from the same parameters, images, flips and posterior noise has the same
loss, gradients, step and moving average (to the relative errors of TOLERANCES, each parameter's norm by itself).

Needs PyTorch (`pip install torch`).
"""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import torch_nets
from benchmarks.measure import OURS, Row, compare, main
from benchmarks.torch_nets import torch
from configs.vae import get_config
from gm_jax.build import build_model, compute_dtype, resolve
from gm_jax.core import Variables, streams
from gm_jax.nets.resnet import default_multipliers
from gm_jax.system.devices import jit
from gm_jax.training import learning
from gm_jax.training.batches import example_keys, seed_keys
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.run import STEPS_PER_DISPATCH
from gm_jax.training.start import first_batch
from gm_jax.variational import standard_normal

SHAPE = (32, 32, 3)
# relative; the first step is 2e-6 large, near the rounding of parameters
TOLERANCES = {"loss": 1e-5, "gradients": 1e-4, "step": 1e-1, "average": 1e-1}


class Draws(NamedTuple):
    """The noise of one step."""

    mirrored: Any  # [batch] whether the image is flipped
    eps: Any  # [batch, latent]


class Update(NamedTuple):
    """What the first update did; trees under PyTorch's names."""

    loss: float
    gradients: dict[str, torch.Tensor]
    params: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]


def rows(options: Any) -> Iterator[Row]:
    config = resolve(get_config("cifar10").to_dict())
    steps = 1 if jax.default_backend() == "cpu" else STEPS_PER_DISPATCH
    images = np.random.default_rng(0).integers(0, 256, (steps, options.batch, *SHAPE), np.uint8)
    with torch_nets.exact():
        ours, theirs = sides(config | {"precision": "float32"}, images)
        for trainer in theirs.values():
            assert torch_nets.count(trainer.net) == ours.parameters, "different numbers of parameters"
        check_updates(ours, theirs)

    ours, theirs = sides(config, images)
    variants = {OURS: ours.train} | {name: trainer.train for name, trainer in theirs.items()}
    for train in variants.values():  # compiles
        train()
    path = f"ConvVAE train step, {ours.parameters / 1e6:.1f}M parameters, batch {options.batch}"
    yield compare(path, "step", variants, rounds=options.rounds, per=steps, note=precision(config))


def sides(config: dict[str, Any], images: np.ndarray) -> tuple["Ours", dict[str, "Theirs"]]:
    ours = Ours(config, images)
    return ours, {name: Theirs(config, ours.params, images, wrap) for name, wrap in torch_nets.variants().items()}


def precision(config: dict[str, Any]) -> str:
    return compute_dtype(config["precision"]).name


def check_updates(ours: "Ours", theirs: dict[str, "Theirs"]) -> None:
    """AssertionError unless all make the same first update, from the same noise."""
    start, draws, update = torch_nets.state_dict(ours.params), ours.draws(), ours.first_update()

    def moved(params):
        return {key: params[key] - start[key] for key in start}

    for name, trainer in theirs.items():
        other = trainer.first_update(draws)
        errors = {
            "loss": abs(other.loss / update.loss - 1),
            "gradients": error(update.gradients, other.gradients),
            "step": error(moved(update.params), moved(other.params)),
            "average": error(moved(update.average), moved(other.average)),
        }
        print(
            f"  {name}: relative errors: " + ", ".join(f"{key} {value:.1e}" for key, value in errors.items()), file=sys.stderr
        )
        for key, value in errors.items():
            assert value < TOLERANCES[key], f"{name} computes another {key}"


def error(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest relative error of any array, in its norm."""
    return max(float((ours[key] - theirs[key]).norm() / ours[key].norm()) for key in ours)


class Ours:
    """The training loop's own step, compiled as there."""

    def __init__(self, config: dict[str, Any], images: np.ndarray):
        model = build_model(config, SHAPE, 10)
        optimizers = build_optimizers(config, model)
        self.config, self.model, self.keys = config, model, seed_keys(config["seed"])
        batch = first_batch(self.keys, images[0], None, config["data"]["flip"])
        self.params = torch_nets.random_params(jax.eval_shape(model.init, self.keys.init, batch).params)
        self.parameters = sum(a.size for a in jax.tree.leaves(self.params))
        step = learning.make_train_step(model, optimizers, self.keys, flip=config["data"]["flip"])
        self.dispatch = jit(learning.make_dispatch(step), static_argnums=4, donate_argnums=0)
        self.images = jax.device_put(images)
        self.state = learning.with_variables(model, optimizers, Variables(jax.device_put(self.params)))

    def train(self, n: int | None = None) -> learning.StepOutput:
        steps = len(self.images) if n is None else n
        self.state, output, failed = jax.block_until_ready(
            self.dispatch(self.state, self.images, None, jnp.int32(steps), ("vae",))
        )
        assert failed < 0, "the loss or a gradient is not finite"
        return output

    def draws(self) -> Draws:
        """The noise of the first step."""
        index = jnp.arange(self.images.shape[1])
        mirrored = jax.vmap(jax.random.bernoulli)(example_keys(self.keys.augment, 0, index))
        eps = standard_normal(*streams(example_keys(self.keys.noise, 0, index), "latent"), self.config["model"]["latent_dim"])
        return Draws(np.asarray(mirrored), np.asarray(eps))

    def first_update(self) -> Update:
        loss, _ = self.train(1).metrics["vae/loss"]
        mu = optax.tree.get(self.state.opt_state, "mu")  # after one update (1 - b1) times the gradient
        gradients = jax.tree.map(lambda a: a / (1 - self.config["optimizer"]["b1"]), mu)
        average = learning.averaged_params(self.state, self.model.objectives)
        return Update(float(loss), *map(torch_nets.state_dict, (gradients, self.state.params, average)))


class Theirs:
    """The same step in PyTorch; `wrap` compiles the loss, or not."""

    def __init__(self, config: dict[str, Any], params: Any, images: np.ndarray, wrap: Callable):
        model, self.settings, self.low = config["model"], config["optimizer"], precision(config) == "bfloat16"
        network = model["network"]
        multipliers = network["channel_multipliers"] or default_multipliers(SHAPE)
        net = torch_nets.ConvVAE(model["latent_dim"], network["channels"], multipliers, SHAPE)
        self.net = torch_nets.with_params(net, params)
        self.params = list(self.net.parameters())
        self.average = [p.detach().clone() for p in self.params]
        betas, eps = (self.settings["b1"], self.settings["b2"]), self.settings["eps"]
        self.optimizer = torch.optim.Adam(self.params, betas=betas, eps=eps, fused=True)
        self.images, self.latent_dim, self.steps = torch.tensor(images, device=torch_nets.DEVICE), model["latent_dim"], 0
        self.loss = wrap(make_loss(self.net, model["likelihood_variance"], model["beta"]))

    def train(self) -> None:
        for images in self.images:
            batch, device = len(images), images.device
            eps = torch.randn(batch, self.latent_dim, device=device)
            loss = self.step(images, Draws(torch.rand(batch, device=device) < 0.5, eps))
        loss.item()  # waits

    def step(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        n, settings = self.steps, self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = settings["learning_rate"] * min(1.0, (n + 1) / settings["warmup_steps"])
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.low):
            loss = self.loss(images, *draws)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.params, 1 - min(settings["ema_decay"], (1 + n) / (10 + n)))
        self.steps += 1
        return loss

    def first_update(self, draws: Draws) -> Update:
        images = self.images[0]
        loss = self.step(images, Draws(*(torch.tensor(a, device=images.device) for a in draws)))
        names = [name for name, _ in self.net.named_parameters()]
        trees = ([p.grad for p in self.params], self.params, self.average)
        trees = ({name: a.detach().cpu().clone() for name, a in zip(names, tree, strict=True)} for tree in trees)
        return Update(loss.item(), *trees)


def make_loss(net: torch_nets.ConvVAE, variance: float, beta: float) -> Callable:
    """(uint8 images, flips, posterior noise) -> negative log-likelihood + beta KL, in nats an image."""

    def loss(images, mirrored, eps):
        x = images.float() / 127.5 - 1
        x = torch.where(mirrored[:, None, None, None], x.flip(2), x)
        mean, logvar = net.encoder(x).chunk(2, 1)
        error = net.decoder(mean + torch.exp(0.5 * logvar) * eps) - x
        nll = 0.5 * (error.square() / variance + np.log(2 * np.pi * variance)).sum((1, 2, 3))
        kl = 0.5 * (mean.square() + torch.expm1(logvar) - logvar).sum(1)
        return (nll + beta * kl).mean()

    return loss


if __name__ == "__main__":
    main(rows, __doc__, batch=128)
