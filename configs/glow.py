"""Glow (Kingma & Dhariwal 2018): flows with invertible 1x1 convolutions.

  python train.py --config configs/glow.py                      CIFAR-10, 3 levels of 32 steps
  python train.py --config configs/glow.py:cifar10_conditional  the same, with a prior for each class
  python train.py --config configs/glow.py:mnist                28x28 digits, 2 levels of 8 steps
  python train.py --config configs/glow.py:digits               8x8 digits, in minutes on two CPU cores
  python train.py --config configs/glow.py:digits_conditional   the same, with a prior for each digit
  python train.py --config configs/glow.py:ring                 points of a plane: eight Gaussians (moons and others: data.name)
  python train.py --config configs/glow.py:tiny                 seconds: a check that everything works

Settings of "cifar10": the command of openai/glow for CIFAR-10 (batches of 64 on each of 8 GPUs, ten epochs of warm-up, weights
averaged over about an epoch). Its Adamax is Adam here, and its shifts by a tenth of an image are left out; flips stay.

Expected:
  cifar10: 3.35 bits/dim (paper, table 2); not run here yet.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="glow", network={"name": "conv"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.update(name="cifar10", flip=True)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=1000, ema_decay=0.99)
    config.train.update(steps=200_000, batch_size=512, sample_every=5000, checkpoint_every=5000)


def cifar10_conditional(config: ConfigDict) -> None:
    cifar10(config)
    config.model.class_conditional = True


def mnist(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.model.update(levels=2, steps=8)
    config.model.network.channels = 64
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200, ema_decay=0.99, clip_norm=50.0)
    config.optimizer.update(schedule="cosine", end_rate=1e-5, horizon=7000)
    config.train.update(steps=7000, batch_size=32, log_every=50, heldout_every=1000, sample_every=1000, checkpoint_every=500)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(levels=2, steps=8)
    config.model.network.channels = 64
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, ema_decay=0.99, clip_norm=50.0)
    config.train.update(steps=2000, batch_size=64, log_every=50, heldout_every=250, sample_every=500, checkpoint_every=500)


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.class_conditional = True


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.update(steps=8, network={"name": "mlp"})
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, ema_decay=0.99, clip_norm=50.0)
    config.train.update(steps=5000, batch_size=512, log_every=100, heldout_every=500, sample_every=1000, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(levels=2, steps=1)
    config.model.network.channels = 8
    config.optimizer.update(learning_rate=5e-3, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {
    "cifar10": cifar10,
    "cifar10_conditional": cifar10_conditional,
    "mnist": mnist,
    "digits": digits,
    "digits_conditional": digits_conditional,
    "ring": ring,
    "tiny": tiny,
}
