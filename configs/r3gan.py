"""R3GAN (Huang et al. 2024): relativistic pairs, R1 and R2, residual networks without normalisation.

  python train.py --config configs/r3gan.py                      CIFAR-10, told the class: 390 000 steps of batch 512
  python train.py --config configs/r3gan.py:digits               8x8 digits, in minutes on two CPU cores
  python train.py --config configs/r3gan.py:digits_conditional   the same, told which digit
  python train.py --config configs/r3gan.py:tiny                 seconds: a check that everything works

Settings of "cifar10": brownvc/R3GAN, train.py. There the average's half-life grows along half a cosine, here in proportion to
the steps; and either player sees real images of its own there.

Expected:
    cifar10: not yet run (the paper: FID 1.96).
    digits: Frechet distance 21.4, digits that can be read, but are not yet sharp after 2000 steps: the critic is ahead by 0.3
        of 1 and still gaining (results/digits_games/r3gan.json); settings not tuned.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, own, with_preset

HORIZON = 20_000_000 // 512  # steps in which everything that changes does so


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="r3gan"), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.model.update(class_conditional=True, augmentation=0.55, ramp_steps=HORIZON)
    config.optimizer.update(learning_rate=2e-4, end_rate=5e-5, b1=0.0, b2=0.9, end_b2=0.99, schedule="cosine", horizon=HORIZON)
    own(config, "generator", ema_decay=0.5 ** (512 / 5e6), ema_ramp=0.25)
    config.train.update(steps=390_000, batch_size=512, sample_every=5_000, checkpoint_every=5_000)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(latent_dim=32, channels=32, groups=8, num_res_blocks=1, gamma=1.0, end_gamma=0.1, ramp_steps=2000)
    config.optimizer.update(learning_rate=1e-3, end_rate=2e-4, b1=0.0, b2=0.9, end_b2=0.99, schedule="cosine", horizon=2000)
    own(config, "generator", ema_decay=0.99)
    config.train.update(steps=2000, batch_size=128, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=500)


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.class_conditional = True


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.update(latent_dim=8, channels=8, groups=4, ramp_steps=100)
    config.optimizer.update(learning_rate=5e-3, end_rate=1e-3, horizon=100)
    config.train.update(
        steps=100, batch_size=64, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "digits": digits, "digits_conditional": digits_conditional, "tiny": tiny}
