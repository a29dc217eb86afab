"""Classifier guidance (Dhariwal & Nichol 2021): EDM beside a classifier of noisy images.

    python train.py --config configs/guided.py            CIFAR-10: 390 625 steps of batch 512
    python train.py --config configs/guided.py:digits     8x8 digits, in minutes on two CPU cores
    python train.py --config configs/guided.py:ring       points of a plane: eight Gaussians
    python train.py --config configs/guided.py:tiny       seconds: a check that everything works

The paper has no CIFAR-10 model: "cifar10" has the settings of EDM, and a classifier of the project's own. Not yet run here.

Expected:
    digits: Frechet distance 6.2 without guidance, 3.9 at scale 1 and 2.4 at 3 (results/digits_noise/guided.json).
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    model = {"diffusion": {"name": "edm", "network": {"name": "song_unet"}}, "classifier": {"name": "unet"}}
    return with_preset(base(name="guided", **model), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.model.classifier.update(channels=64, dropout=0.2)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=19_531, ema_decay=0.99929, ema_ramp=0.05)
    config.train.update(steps=390_625, batch_size=512, sample_every=5_000, checkpoint_every=5_000)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    sizes = {"channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,)}
    config.model.diffusion.update(sigma_data=0.75, augment_probability=0.0, network=sizes)
    config.model.classifier.update(channels=16, channel_multipliers=(1, 2), num_res_blocks=1, attention_resolutions=())
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema_decay=0.995)
    config.train.update(steps=1200, batch_size=128, log_every=50, heldout_every=250, sample_every=400, checkpoint_every=400)


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.diffusion.update(sigma_max=20.0, sigma_data=1.4, network={"name": "mlp"})
    config.model.classifier = ConfigDict({"name": "mlp", "channels": 64, "depth": 2})
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99)
    config.train.update(steps=3000, batch_size=512, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.diffusion.network.update(channels=8, channel_multipliers=(1,), attention_resolutions=())
    config.model.classifier.update(channels=8, channel_multipliers=(1,))
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "digits": digits, "ring": ring, "tiny": tiny}
