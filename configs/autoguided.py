"""Autoguidance (Karras et al. 2024): EDM guided by a smaller EDM.

    python train.py --config configs/autoguided.py            CIFAR-10: 390 625 steps of batch 512
    python train.py --config configs/autoguided.py:digits     8x8 digits, in minutes on two CPU cores
    python train.py --config configs/autoguided.py:ring       points of a plane: eight Gaussians
    python train.py --config configs/autoguided.py:tiny       seconds: a check that everything works

The paper has no CIFAR-10 model: "cifar10" has the settings of EDM, and a weak model of half its width. Not yet run here.

Expected:
    digits: Frechet distance 9.1 without guidance, 11.6 with it: so short a training is not what it is for
        (results/digits_noise/autoguided.json).
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    part = {"name": "edm", "network": {"name": "song_unet"}}
    return with_preset(base(name="autoguided", main=part, weak=part), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.model.weak.network.channels = 64
    config.optimizer.update(learning_rate=1e-3, warmup_steps=19_531, ema_decay=0.99929, ema_ramp=0.05)
    config.train.update(steps=390_625, batch_size=512, sample_every=5_000, checkpoint_every=5_000)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    sizes = {"channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,)}
    for part, channels in ((config.model.main, 32), (config.model.weak, 8)):
        part.update(sigma_data=0.75, augment_probability=0.0, network={"channels": channels, **sizes})
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema_decay=0.995)
    config.train.update(steps=1200, batch_size=128, log_every=50, heldout_every=250, sample_every=400, checkpoint_every=400)


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    for part, channels in ((config.model.main, 128), (config.model.weak, 16)):
        part.update(sigma_max=20.0, sigma_data=1.4, network={"name": "mlp", "channels": channels})
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99)
    config.train.update(steps=3000, batch_size=512, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    digits(config)
    for part, channels in ((config.model.main, 8), (config.model.weak, 4)):
        part.network.update(channels=channels, channel_multipliers=(1,), attention_resolutions=())
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "digits": digits, "ring": ring, "tiny": tiny}
