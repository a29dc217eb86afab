"""RealNVP (Dinh et al. 2017): affine couplings, by masks and at several scales.

  python train.py --config configs/realnvp.py          CIFAR-10
  python train.py --config configs/realnvp.py:mnist    28x28 digits
  python train.py --config configs/realnvp.py:digits   8x8 digits, in minutes on two CPU cores
  python train.py --config configs/realnvp.py:ring     points of a plane: eight Gaussians (moons and others: data.name)
  python train.py --config configs/realnvp.py:tiny     seconds: a check that everything works

With --config.model.class_conditional=True the networks are told the label. Settings of "cifar10": section 4.1 of the paper,
Adam with its default rate and batches of 64; the decay of 5e-5 is of weight-norm scales there, which there are none of here.

Expected:
  cifar10: 3.49 bits/dim (paper, table 1); not run here yet.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="realnvp", network={"name": "resnet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.update(name="cifar10", flip=True)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=1000, ema_decay=0.999, clip_norm=100.0)
    config.train.update(steps=200_000, batch_size=64, sample_every=5000, checkpoint_every=5000)


def mnist(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.model.network.update(channels=32, num_blocks=2)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200, ema_decay=0.999, clip_norm=100.0)
    config.train.update(steps=20_000, batch_size=64, log_every=50, heldout_every=1000, sample_every=1000, checkpoint_every=500)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.network.update(channels=32, num_blocks=1)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, ema_decay=0.99, clip_norm=100.0)
    config.train.update(steps=2000, batch_size=64, log_every=50, heldout_every=250, sample_every=500, checkpoint_every=500)


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.network = ConfigDict({"name": "mlp"})
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, ema_decay=0.99, clip_norm=100.0)
    config.train.update(steps=5000, batch_size=512, log_every=100, heldout_every=500, sample_every=1000, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.network.update(channels=8, num_blocks=1)
    config.optimizer.update(learning_rate=5e-3, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "mnist": mnist, "digits": digits, "ring": ring, "tiny": tiny}
