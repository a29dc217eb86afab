"""Variational diffusion models (Kingma et al. 2021).

    python train.py --config configs/vdm.py                      CIFAR-10: 10 000 000 steps of batch 128
    python train.py --config configs/vdm.py:digits               8x8 digits, in minutes on two CPU cores
    python train.py --config configs/vdm.py:digits_schedule      the same with a schedule that is learnt between its ends
    python train.py --config configs/vdm.py:ring                 points of a plane: eight Gaussians
    python train.py --config configs/vdm.py:tiny                 seconds: a check that everything works

Settings of "cifar10": the authors' code (google-research/vdm, configs/cifar10.py). Where pixels are (2 k + 1) / 256 - 1 there,
they are k / 127.5 - 1 here.

Expected:
    cifar10: at most 2.65 bits/dim (the paper, table 1). Not yet run here.
    digits: Frechet distance 5.9, variational bound 4.27 bits/dim, in seven minutes (results/digits_noise/vdm.json).
    digits_schedule: 5.8, at most 4.31 bits/dim of 64 images (results/digits_games/vdm-schedule.json).
    ring: variational bound -0.99 nats, 0.06 above the exact density, in two minutes.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="vdm", network={"name": "unet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.model.network.update(channel_multipliers=(1,), num_res_blocks=32, attention_resolutions=())
    config.optimizer.update(learning_rate=2e-4, weight_decay=0.01, b2=0.99, warmup_steps=100, ema_decay=0.9999)
    config.train.update(steps=10_000_000, batch_size=128, sample_every=10_000, checkpoint_every=10_000)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(steps=250, fourier_features=())  # there are 17 grey levels
    config.model.network.update(channels=32, channel_multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(4,))
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, clip_norm=1.0, ema_decay=0.995)
    config.train.update(steps=1200, batch_size=128, log_every=50, heldout_every=250, sample_every=400, checkpoint_every=400)


def digits_schedule(config: ConfigDict) -> None:
    digits(config)
    config.model.update(learn="schedule", schedule_every=4)


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.update(steps=250, fourier_features=(), learn="schedule")
    config.model.network = ConfigDict({"name": "mlp"})
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99)
    config.train.update(steps=3000, batch_size=512, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.steps = 50
    config.model.network.update(channels=8, channel_multipliers=(1,), attention_resolutions=())
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "digits": digits, "digits_schedule": digits_schedule, "ring": ring, "tiny": tiny}
