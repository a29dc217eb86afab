"""DDPM here and in PyTorch: the paper's CIFAR-10 network of 35.7M parameters, trained and sampled.

    python -m benchmarks.ddpm [--batch=8] [--sample_batch=16] [--steps=4] [--rounds=7]

These are the defaults on a CPU; on a GPU 128, 256 and 50. Needs PyTorch (`pip install torch`) and a C++ compiler, with which
`torch.compile` takes minutes. On a GPU set XLA_PYTHON_CLIENT_PREALLOCATE=false, so that both sides find memory.

Three comparisons, each with PyTorch in channels_last, eager and compiled (the network: `benchmarks/torch_unet.py`): the whole
training step of `configs/ddpm.py`, that is random flips, times and noise, forward, backward, clipping, Adam with warm-up (fused
in PyTorch) and averaged weights; DDIM; ancestral sampling. float32 on a CPU; bfloat16 (autocast in PyTorch) on a GPU.

Checked before, in float32 and from the same random weights: the number of parameters; the network's output; the losses,
parameters and averages of two updates without dropout from the same images, times and noise; the images that DDIM makes of the
same noise. The last two eager and compiled.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import OURS, Row, compare, main
from benchmarks.torch_nets import DEVICE, ON_GPU, exact, torch, variants
from benchmarks.torch_unet import UNet, arrays, load
from configs.ddpm import get_config
from gm_jax.build import build_model, compute_dtype, resolve
from gm_jax.core import Batch, Model, Variables, streams
from gm_jax.diffusion import samplers
from gm_jax.models.ddpm import get_beta_schedule
from gm_jax.nets import unet
from gm_jax.system.devices import jit
from gm_jax.training import learning
from gm_jax.training.batches import make_batch, seed_keys
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.run import STEPS_PER_DISPATCH

SHAPE = (32, 32, 3)
PARAMETERS = 35_746_307

Config = dict[str, Any]


def rows(options: Any) -> Iterator[Row]:
    config = resolve(get_config().to_dict())
    variables = random_variables(build_model(config, SHAPE, None))
    net = torch_network(config, variables)
    forward = {name: wrap(net) for name, wrap in variants().items()}
    batch, sample_batch = options.batch or (128 if ON_GPU else 8), options.sample_batch or (256 if ON_GPU else 16)
    steps = options.steps or (50 if ON_GPU else 4)

    net.eval()
    with exact():
        float32 = config | {"precision": "float32"}
        check_network(float32, variables, net)
        check_updates(float32, variables)
        check_ddim(float32, variables, forward, sample_batch)
    yield training(config, variables, net, forward, batch, options.rounds)
    net.eval()
    for name in ("ddim", "ancestral"):
        yield sampling(name, config, variables, forward, sample_batch, steps, options.rounds)


def random_variables(model: Model) -> Variables:
    """Random weights without the zeros of the initialisation, behind which differences would hide."""
    batch = Batch(jnp.zeros((1, *SHAPE)), None, jax.random.split(jax.random.key(0), 1))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        name = path[-1].key
        return noise * np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else (name == "scale") + 0.1 * noise

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0), batch))


def torch_network(config: Config, variables: Variables, dropout: float | None = None) -> UNet:
    """The preset's network with these weights; `dropout` instead of the preset's."""
    network = config["model"]["network"]
    net = UNet(
        SHAPE[0],
        network["channels"],
        network["channel_multipliers"] or (1, 2, 2, 2),
        network["num_res_blocks"],
        network["attention_resolutions"],
        network["dropout"] if dropout is None else dropout,
    )
    load(net, variables.params["network"])
    return net.to(DEVICE, memory_format=torch.channels_last)


def random_images(k: int, batch: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (k, batch, *SHAPE), np.uint8)


def to_torch(images: Any) -> Any:
    """[b, H, W, C] -> [b, C, H, W] on PyTorch's device, in channels_last."""
    return torch.tensor(np.asarray(images), device=DEVICE).permute(0, 3, 1, 2)


def to_numpy(images: Any) -> np.ndarray:
    return images.detach().permute(0, 2, 3, 1).cpu().numpy()


def synchronize() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def precision(config: Config) -> str:
    return compute_dtype(config["precision"]).name


def autocast(config: Config) -> Any:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=precision(config) == "bfloat16")


# --- training -----------------------------------------------------------------------------------------------------------------


class Training:
    """gm_jax: the step and the dispatch of `train.py`."""

    def __init__(self, config: Config, variables: Variables):
        model = build_model(config, SHAPE, None)
        optimizers = build_optimizers(config, model)
        self.keys, self.objectives = seed_keys(config["seed"]), model.objectives
        step = learning.make_train_step(model, optimizers, self.keys, flip=config["data"]["flip"])
        self.dispatch = jit(learning.make_dispatch(step), static_argnums=4, donate_argnums=0)
        self.state = learning.with_variables(model, optimizers, jax.tree.map(jnp.array, variables))

    def run(self, images: Any) -> float:
        """As many steps as there are batches in uint8 [k, b, H, W, C]; the mean loss."""
        self.state, output, _ = self.dispatch(self.state, images, None, jnp.int32(len(images)), (self.objectives[0].name,))
        jax.block_until_ready(self.state)
        total, count = output.metrics[f"{self.objectives[0].name}/loss"]
        return float(total / count)


class TorchTraining:
    """The same in PyTorch, of a network that is called by `forward`: itself, or itself compiled."""

    def __init__(self, config: Config, net: UNet, forward: Callable):
        self.settings, self.forward, self.count = config["optimizer"], forward, 0
        self.autocast = partial(autocast, config)
        self.parameters = list(net.parameters())
        self.averages = [p.detach().clone() for p in self.parameters]
        adam = self.settings
        self.adam = torch.optim.Adam(self.parameters, betas=(adam["b1"], adam["b2"]), eps=adam["eps"], fused=True)
        self.alpha, self.sigma = (torch.tensor(x, dtype=torch.float32, device=DEVICE) for x in alpha_and_sigma(config))

    def run(self, images: Any) -> float:
        """As many steps as there are batches in uint8 [k, b, C, H, W]; the last loss."""
        for batch in images:
            x = batch.float() / 127.5 - 1
            flip = torch.rand(len(x), 1, 1, 1, device=DEVICE) < 0.5
            t = torch.randint(1, len(self.alpha), (len(x),), device=DEVICE)
            loss = self.update(torch.where(flip, x.flip(3), x), t, torch.randn_like(x))
        synchronize()
        return loss.item()

    def update(self, x0: Any, t: Any, eps: Any) -> Any:
        self.adam.zero_grad(set_to_none=True)
        x_t = self.alpha[t, None, None, None] * x0 + self.sigma[t, None, None, None] * eps
        with self.autocast():
            loss = torch.nn.functional.mse_loss(self.forward(x_t, t - 1), eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings["clip_norm"])
        warmup = min(1, (self.count + 1) / self.settings["warmup_steps"])
        self.adam.param_groups[0]["lr"] = self.settings["learning_rate"] * warmup
        self.adam.step()
        decay = min(self.settings["ema_decay"], (1 + self.count) / (10 + self.count))
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1 - decay)
        self.count += 1
        return loss


def alpha_and_sigma(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Those of eq. 4 at t = 0..T."""
    betas = get_beta_schedule(config["model"]["schedule"], config["model"]["timesteps"])
    alpha_bar = np.append(1.0, np.cumprod(1 - betas))
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def training(config: Config, variables: Variables, net: UNet, forward: dict[str, Callable], batch: int, rounds: int) -> Row:
    k = STEPS_PER_DISPATCH if ON_GPU else 1
    images = random_images(k, batch)
    ours, theirs = jnp.asarray(images), torch.stack([to_torch(x) for x in images])
    net.train()
    timed = {OURS: partial(Training(config, variables).run, ours)}
    timed |= {name: partial(TorchTraining(config, net, call).run, theirs) for name, call in forward.items()}
    losses = [run() for run in timed.values()]  # compiles
    assert np.allclose(losses, losses[0], rtol=0.2), losses  # of other times and noise
    path = f"DDPM train step, {PARAMETERS / 1e6:.1f}M parameters, batch {batch}"
    return compare(path, "step", timed, rounds=rounds, per=k, note=precision(config))


# --- sampling -----------------------------------------------------------------------------------------------------------------


def sampler(config: Config, variables: Variables, name: str, steps: int) -> Callable:
    """gm_jax: keys -> images, one program."""
    draw = jit(partial(build_model(config, SHAPE, None).sample, sampler=name, steps=steps))
    variables = jax.device_put(variables)
    return lambda keys: jax.block_until_ready(draw(variables, keys))


@torch.inference_mode()
def torch_sample(forward: Callable, config: Config, name: str, steps: int, x: Any) -> Any:
    """x_0 from x_T, by DDIM (Song et al. 2020, eq. 12) or by algorithm 2 over any steps, with the larger variance."""
    alpha, sigma = (table.tolist() for table in alpha_and_sigma(config))
    for t, s in pairwise(np.linspace(len(alpha) - 1, 0, steps + 1).round().astype(int).tolist()):
        with autocast(config):
            eps = forward(x, torch.full((len(x),), t - 1, device=DEVICE))
        x0 = ((x - sigma[t] * eps) / alpha[t]).clamp(-1, 1)
        if name == "ddim":
            x = alpha[s] * x0 + sigma[s] / sigma[t] * (x - alpha[t] * x0)
        else:
            step = alpha[t] / alpha[s]  # of x_t in x_s
            variance = 1 - step**2
            x = (alpha[s] * variance * x0 + step * sigma[s] ** 2 * x) / sigma[t] ** 2
            if s > 0:
                x += variance**0.5 * torch.randn_like(x)
    synchronize()
    return x


def sampling(
    name: str, config: Config, variables: Variables, forward: dict[str, Callable], batch: int, steps: int, rounds: int
) -> Row:
    ours, keys = sampler(config, variables, name, steps), jax.random.split(jax.random.key(1), batch)

    def draw(call):
        noise = torch.randn(batch, SHAPE[2], *SHAPE[:2], device=DEVICE).to(memory_format=torch.channels_last)
        return torch_sample(call, config, name, steps, noise)

    timed = {OURS: lambda: ours(keys)} | {key: partial(draw, call) for key, call in forward.items()}
    spreads = [float(run().std()) for run in timed.values()]  # compiles
    assert np.allclose(spreads, spreads[0], rtol=0.05), spreads  # of other noise
    title = {"ddim": "DDIM", "ancestral": "DDPM ancestral"}[name]
    path = f"{title} sampling, batch {batch}, per step"
    return compare(path, f"step of {batch} images", timed, rounds=rounds, per=steps, note=precision(config))


# --- checks -------------------------------------------------------------------------------------------------------------------


def check(what: str, difference: float, tolerance: float) -> None:
    print(f"  {what}: differ by {difference:.1e}, {tolerance:.0e} is allowed", file=sys.stderr)
    if not difference <= tolerance:
        raise AssertionError(f"{what}: the two sides do not compute the same")


def check_network(config: Config, variables: Variables, net: UNet) -> None:
    """The number of parameters, and the output for 4 images at different times."""
    counts = [sum(a.size for a in jax.tree.leaves(variables.params)), sum(p.numel() for p in net.parameters())]
    assert counts == [PARAMETERS, PARAMETERS], counts
    x, t = np.random.default_rng(2).standard_normal((4, *SHAPE), np.float32), np.array([0, 10, 300, 999])
    ours = jit(unet.UNet(SHAPE[2], config["model"]["network"]["channels"]).apply)({"params": variables.params["network"]}, x, t)
    with torch.no_grad():
        theirs = to_numpy(net(to_torch(x), torch.tensor(t, device=DEVICE)))
    check("outputs of the network", np.abs(ours - theirs).max() / np.std(ours), 1e-4)


def check_updates(config: Config, variables: Variables) -> None:
    """Two updates, the first at half the learning rate: their losses, then parameters and averages.

    Adam divides each gradient by its size, which is rounding error where the gradient is: so differences are averaged, and in
    units of the learning rate.
    """
    network = config["model"]["network"] | {"dropout": 0.0}
    config = config | {"model": config["model"] | {"network": network}}
    config |= {"optimizer": config["optimizer"] | {"warmup_steps": 2}}
    nets = {name: torch_network(config, variables) for name in variants()}
    ours = Training(config, variables)
    theirs = {name: TorchTraining(config, nets[name], wrap(nets[name])) for name, wrap in variants().items()}
    images = jnp.asarray(random_images(1, 4))
    for step in range(2):
        batch = make_batch(ours.keys, step, jnp.arange(4), images[0], None, config["data"]["flip"])
        t_keys, eps_keys = streams(batch.keys, "time", "noise")  # as in the model's loss
        t = jax.vmap(lambda key: jax.random.randint(key, (), 1, config["model"]["timesteps"] + 1))(t_keys)
        eps = samplers.normal(eps_keys, SHAPE)
        loss = ours.run(images)
        for name, trainer in theirs.items():
            other = trainer.update(to_torch(batch.x), torch.tensor(np.asarray(t), device=DEVICE), to_torch(eps))
            check(f"{name}: loss of update {step + 1}", abs(loss / other.item() - 1), 1e-5)
    averages = learning.averaged_params(ours.state, ours.objectives)
    for name, trainer in theirs.items():
        for what, params, tensors in [
            ("parameters", ours.state.params, trainer.parameters),
            ("averages", averages, trainer.averages),
        ]:
            pairs = zip(arrays(params["network"], nets[name]).values(), tensors, strict=True)
            total = sum(np.abs(a - b.detach().cpu().numpy()).sum() for a, b in pairs)
            check(f"{name}: {what}, in learning rates", total / PARAMETERS / config["optimizer"]["learning_rate"], 1e-4)


def check_ddim(config: Config, variables: Variables, forward: dict[str, Callable], batch: int) -> None:
    """The images that 4 steps of DDIM make of the same noise."""
    keys = jax.random.split(jax.random.key(4), batch)
    ours = np.asarray(sampler(config, variables, "ddim", 4)(keys))
    path = build_model(config, SHAPE, None).diffusion.path
    noise = samplers.initial_noise(path, *streams(keys, "start"), SHAPE)
    for name, call in forward.items():
        theirs = to_numpy(torch_sample(call, config, "ddim", 4, to_torch(noise)))
        check(f"{name}: images of DDIM", np.abs(ours - theirs).max(), 1e-3)


if __name__ == "__main__":
    main(rows, __doc__, batch=0, sample_batch=0, steps=0)
