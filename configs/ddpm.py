"""Denoising diffusion probabilistic models (Ho et al. 2020).

    python train.py --config configs/ddpm.py            CIFAR-10 with the paper's settings: 800 000 steps of batch 128
    python train.py --config configs/ddpm.py:cifar10_improved    CIFAR-10 with learned variances: 500 000 steps of batch 128
    python train.py --config configs/ddpm.py:digits     8x8 digits, in minutes on two CPU cores
    python train.py --config configs/ddpm.py:digits_improved     the same with learned variances
    python train.py --config configs/ddpm.py:digits_conditional    the same, told which digit
    python train.py --config configs/ddpm.py:ring       points of a plane: eight Gaussians, in a minute
    python train.py --config configs/ddpm.py:tiny       seconds: a check that everything works

Settings of "cifar10": the paper, appendix B, and the authors' code (hojonathanho/diffusion, scripts/run_cifar.py); of
"cifar10_improved": Nichol & Dhariwal 2021 and their code (openai/improved-diffusion, README.md), L_hybrid with the cosine
schedule, and their network to its constants (variant="adm").

Expected:
    cifar10: FID 3.17 against the training images, IS 9.46, at most 3.75 bits/dim (the paper). Not yet run here.
    cifar10_improved: FID 3.19, at most 3.17 bits/dim (the paper). Not yet run here.
    digits: variational bound 4.60 bits/dim, readable digits, in two and a half minutes (results/digits/ddpm.json).
    digits_improved: variational bound 4.20 bits/dim, in six minutes (results/digits_noise/ddpm-improved.json).
    tiny: the loss falls from 0.80 to below 0.45.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="ddpm", network={"name": "unet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.optimizer.update(learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0, ema_decay=0.9999)
    config.train.update(steps=800_000, batch_size=128, sample_every=10_000, checkpoint_every=5_000)


def cifar10_improved(config: ConfigDict) -> None:
    cifar10(config)
    config.model.update(timesteps=4000, schedule="cosine", variance="learned", objective="hybrid")
    config.model.network.update(num_res_blocks=3, attention_resolutions=(16, 8), num_heads=4, scale_shift=True, dropout=0.3)
    config.model.network.variant = "adm"
    config.optimizer.update(learning_rate=1e-4, warmup_steps=0, clip_norm=0.0)
    config.train.steps = 500_000


def digits(config: ConfigDict) -> None:
    cifar10(config)
    config.data.name = "digits"
    config.data.flip = False
    config.model.update(timesteps=250, schedule="cosine", prediction="v")  # v learns faster than eps where time is short
    config.model.network.update(channels=32, channel_multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(4,))
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema_decay=0.995)
    config.train.update(steps=1200, log_every=50, heldout_every=250, sample_every=400, checkpoint_every=400)


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.class_conditional = True


def digits_improved(config: ConfigDict) -> None:
    digits(config)
    config.model.update(variance="learned", objective="hybrid")
    config.model.network.update(num_heads=4, scale_shift=True)


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.update(timesteps=100, schedule="cosine", prediction="v", network={"name": "mlp"})
    config.model.variance = "fixed_small"  # the larger one blurs clusters this small
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99)
    config.train.update(steps=3000, batch_size=512, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.timesteps = 50
    config.model.network.update(channels=8, channel_multipliers=(1,), attention_resolutions=())
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {
    "cifar10": cifar10,
    "cifar10_improved": cifar10_improved,
    "digits": digits,
    "digits_conditional": digits_conditional,
    "digits_improved": digits_improved,
    "ring": ring,
    "tiny": tiny,
}
