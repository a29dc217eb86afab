"""MAF (Papamakarios et al. 2017) and IAF (Kingma et al. 2016): autoregressive flows.

  python train.py --config configs/maf.py           CIFAR-10, MAF (10) with two hidden layers of 1024
  python train.py --config configs/maf.py:mnist     28x28 digits, the same
  python train.py --config configs/maf.py:digits    8x8 digits, in minutes on two CPU cores
  python train.py --config configs/maf.py:ring      points of a plane: eight Gaussians (moons and others: data.name)
  python train.py --config configs/maf.py:ring_iaf  the same by IAF
  python train.py --config configs/maf.py:tiny      seconds: a check that everything works

With --config.model.class_conditional=True the networks are told the label. Settings of "cifar10" and "mnist": appendix D of the
paper, Adam at 1e-4, batches of 100, alpha = 0.05 and 1e-6, mirror images of CIFAR-10. There it stops where images held out do
not improve for 30 epochs, for which there is a number of steps here; its penalty of 1e-6 on the weights is left out.

Expected:
  cifar10: about 4.3 bits/dim in the paper; not run here yet.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="maf"), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.update(name="cifar10", flip=True)
    config.optimizer.update(learning_rate=1e-4, ema_decay=0.999)
    config.train.update(steps=100_000, batch_size=100, sample_every=10_000, checkpoint_every=5000)


def mnist(config: ConfigDict) -> None:
    cifar10(config)
    config.data.update(name="mnist", flip=False)
    config.model.alpha = 1e-6


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(layers=5, hidden=(256,), alpha=1e-3)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, ema_decay=0.99, clip_norm=50.0)
    config.train.update(steps=2000, batch_size=64, log_every=50, heldout_every=250, sample_every=500, checkpoint_every=500)


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.update(layers=8, hidden=(64, 64))
    config.optimizer.update(learning_rate=1e-3, warmup_steps=100, ema_decay=0.99, clip_norm=50.0)
    config.train.update(steps=5000, batch_size=512, log_every=100, heldout_every=500, sample_every=1000, checkpoint_every=1000)


def ring_iaf(config: ConfigDict) -> None:
    ring(config)
    config.model.direction = "iaf"


def tiny(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(layers=2, hidden=(32,))
    config.optimizer.update(learning_rate=2e-3, warmup_steps=20, ema_decay=0.9, clip_norm=10.0)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "mnist": mnist, "digits": digits, "ring": ring, "ring_iaf": ring_iaf, "tiny": tiny}
