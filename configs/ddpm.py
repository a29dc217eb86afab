"""Denoising diffusion probabilistic models (Ho et al. 2020).

    python train.py --config configs/ddpm.py            CIFAR-10 with the paper's settings: 800 000 steps of batch 128
    python train.py --config configs/ddpm.py:digits     8x8 digits, in minutes on two CPU cores
    python train.py --config configs/ddpm.py:tiny       seconds: a check that everything works

Settings of "cifar10": the paper, appendix B, and the authors' code (hojonathanho/diffusion, scripts/run_cifar.py).

Expected:
    cifar10: FID 3.17 against the training images, IS 9.46, at most 3.75 bits/dim (the paper). Not yet run here.
    digits: variational bound 4.60 bits/dim, readable digits, in two and a half minutes (results/ddpm-digits.json).
    tiny: the loss falls from 0.80 to below 0.45.
"""

from ml_collections import ConfigDict

from configs.common import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.model = ConfigDict(
        {
            "name": "ddpm",
            "timesteps": 1000,
            "schedule": "linear",  # or "cosine"
            "prediction": "eps",  # or "x0", "v"
            "variance": "fixed_large",  # or "fixed_small"
            "clip_x0": True,
            "channels": 128,
            "channel_multipliers": (),  # (): the paper's (1, 2, 2, 2), or as many of them as the image can be halved for
            "num_res_blocks": 2,
            "attention_resolutions": (16,),
            "dropout": 0.1,
            "remat": False,
        }
    )
    config.optimizer.update(learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0, ema_decay=0.9999)
    config.train.update(steps=800_000, batch_size=128, sample_every=10_000, checkpoint_every=5_000)


def digits(config: ConfigDict) -> None:
    cifar10(config)
    config.data.name = "digits"
    config.data.flip = False
    config.model.update(
        timesteps=250,
        schedule="cosine",
        prediction="v",  # learns faster than eps where time is short
        channels=32,
        channel_multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
    )
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema_decay=0.995)
    config.train.update(steps=1200, log_every=50, heldout_every=250, sample_every=400, checkpoint_every=400)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.update(timesteps=50, channels=8, num_res_blocks=1, channel_multipliers=(1,), attention_resolutions=())
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "digits": digits, "tiny": tiny}
