"""StyleGAN2-ADA (Karras et al. 2020).

  python train.py --config configs/stylegan2.py                       CIFAR-10: 100 million images in batches of 64
  python train.py --config configs/stylegan2.py:cifar10_conditional   the same, told the class
  python train.py --config configs/stylegan2.py:digits                8x8 digits, in minutes on two CPU cores
  python train.py --config configs/stylegan2.py:digits_conditional    the same, told which digit
  python train.py --config configs/stylegan2.py:tiny                  seconds: a check that everything works

Settings of "cifar10": NVlabs/stylegan2-ada-pytorch, train.py, configuration "cifar". There the penalty is an update of its own,
with a learning rate of 16/17 and moments that forget as much more slowly; here it shares those of the critic, whose learning
rate and moments are scaled in the same way.

Expected:
    cifar10: not yet run (the paper: FID 2.92, with labels 2.42).
    digits: Frechet distance 12.3, precision 0.44, recall 0.89 (results/digits_games/stylegan2.json); settings not tuned.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, own, with_preset

LAZY = 16 / 17  # updates without a penalty among all of the critic's


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="stylegan2"), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.optimizer.update(learning_rate=2.5e-3, b1=0.0, b2=0.99)
    own(config, "critic", learning_rate=2.5e-3 * LAZY, b2=0.99**LAZY)
    own(config, "generator", ema_decay=0.5 ** (64 / 500_000), ema_ramp=0.05)
    config.train.update(steps=1_562_500, batch_size=64, sample_every=5_000, checkpoint_every=5_000)


def cifar10_conditional(config: ConfigDict) -> None:
    cifar10(config)
    config.model.class_conditional = True


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(latent_dim=32, channels=32, gamma=1.0, augmentation="none")
    config.optimizer.update(learning_rate=2.5e-3, b1=0.0, b2=0.99)
    own(config, "generator", ema_decay=0.99)
    config.train.update(steps=3000, batch_size=64, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=1000)


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.class_conditional = True


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.update(latent_dim=8, channels=8, augmentation="bgc", ada_images=2000)
    config.optimizer.learning_rate = 5e-3
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {
    "cifar10": cifar10,
    "cifar10_conditional": cifar10_conditional,
    "digits": digits,
    "digits_conditional": digits_conditional,
    "tiny": tiny,
}
