"""VDVAE, a hierarchy of many groups of latents (Child 2021).

  python train.py --config configs/vdvae.py          CIFAR-10, 39.1M parameters, 43 groups: 1 000 000 steps
  python train.py --config configs/vdvae.py:mnist    28x28 digits, 15 groups
  python train.py --config configs/vdvae.py:digits   8x8 digits, in minutes on two CPU cores
  python train.py --config configs/vdvae.py:tiny     seconds: a check that everything works

Settings of "cifar10": the authors' code (openai/vdvae, hps.py and data.py), with batches of 16 on each of 2 GPUs. The loss is
in nats a pixel and channel as there, and so are the norms of gradients that are clipped (200) or skipped (400). The settings of
the others are this project's own: the paper has none.

Expected:
  cifar10: at most 2.87 bits/dim, the mean of four runs (the authors' README). Not yet run here.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="vdvae"), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.model.update(image_mean=120.63838 / 127.5 - 1, image_std=64.16736 / 127.5)
    config.optimizer.update(learning_rate=2e-4, b2=0.9, weight_decay=0.01, warmup_steps=100, clip_norm=200.0, skip_norm=400.0)
    config.optimizer.update(ema_decay=0.9999, ema_warmup=False)
    config.train.update(steps=1_000_000, batch_size=32, sample_every=10_000, checkpoint_every=10_000)


def mnist(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.model.update(resolutions=(28, 14, 7, 1), encoder_blocks=(3, 3, 3, 2), decoder_blocks=(5, 4, 4, 2))
    config.model.update(channels=64, hidden_channels=32, latent_channels=8, components=5)
    config.model.update(image_mean=-0.74, image_std=0.62)
    config.optimizer.update(learning_rate=1e-3, weight_decay=0.01, warmup_steps=100, clip_norm=200.0, skip_norm=400.0)
    config.optimizer.ema_decay = 0.999
    config.train.update(steps=20_000, batch_size=64)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(resolutions=(8, 4, 1), encoder_blocks=(3, 3, 2), decoder_blocks=(4, 3, 2))
    config.model.update(channels=64, hidden_channels=32, latent_channels=8, components=5)
    config.model.update(image_mean=-0.39, image_std=0.75)
    config.optimizer.update(learning_rate=2e-3, weight_decay=0.01, warmup_steps=100, clip_norm=200.0, skip_norm=400.0)
    config.optimizer.ema_decay = 0.995
    config.train.update(steps=1200, batch_size=64, log_every=50, heldout_every=200, sample_every=400, checkpoint_every=400)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.update(encoder_blocks=(2, 1, 1), decoder_blocks=(1, 1, 1))
    config.model.update(channels=16, hidden_channels=8, latent_channels=4, components=3)
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "mnist": mnist, "digits": digits, "tiny": tiny}
