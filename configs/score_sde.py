"""Score SDEs (Song et al. 2021).

    python train.py --config configs/score_sde.py                    CIFAR-10, DDPM++ (VP): 1 300 000 steps of batch 128
    python train.py --config configs/score_sde.py:cifar10_sub_vp     CIFAR-10, DDPM++ (sub-VP)
    python train.py --config configs/score_sde.py:cifar10_ve         CIFAR-10, NCSN++ (VE)
    python train.py --config configs/score_sde.py:digits             8x8 digits, VP, in minutes on two CPU cores
    python train.py --config configs/score_sde.py:digits_sub_vp      the same, sub-VP
    python train.py --config configs/score_sde.py:digits_ve          the same, VE
    python train.py --config configs/score_sde.py:ring               points of a plane: eight Gaussians
    python train.py --config configs/score_sde.py:tiny               seconds: a check that everything works

Settings of "cifar10...": the paper, appendices F-H, and the authors' code (yang-song/score_sde, configs). The deep networks are
these with --config.model.network.num_res_blocks=8 and --config.train.steps=950000.

Expected, those of CIFAR-10 all of the paper and with the checkpoint of the best FID (none run here yet):
    cifar10: FID 2.55, IS 9.58; 2.41 and 9.68 deep; by the ODE 3.16 bits/dim, 3.13 deep.
    cifar10_sub_vp: FID 2.61, IS 9.56; by the ODE 3.02 bits/dim, 2.99 deep.
    cifar10_ve: FID 2.38, IS 9.83; 2.20 and 9.89 deep.
    digits, digits_sub_vp, digits_ve: Frechet distance 4.8, 5.7 and 7.3; by the ODE 4.73, 4.42 and 4.55 bits/dim, in about six
        minutes each (results/digits_noise/score_sde*.json).
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="score_sde", network={"name": "song_unet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.optimizer.update(learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0, ema_decay=0.9999)
    config.train.update(steps=1_300_000, batch_size=128, sample_every=10_000, checkpoint_every=5_000)


def cifar10_sub_vp(config: ConfigDict) -> None:
    cifar10(config)
    config.model.sde = "sub_vp"


def cifar10_ve(config: ConfigDict) -> None:
    cifar10(config)
    config.model.sde = "ve"
    config.model.network.update(embedding="fourier", encoder="residual")
    config.optimizer.ema_decay = 0.999


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.steps = 250
    config.model.network.update(channels=32, channel_multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(4,))
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, clip_norm=1.0, ema_decay=0.995)
    config.train.update(steps=1200, batch_size=128, log_every=50, heldout_every=250, sample_every=400, checkpoint_every=400)


def digits_sub_vp(config: ConfigDict) -> None:
    digits(config)
    config.model.sde = "sub_vp"


def digits_ve(config: ConfigDict) -> None:
    digits(config)
    config.model.update(sde="ve", sigma_max=10.0)  # the largest distance between two digits is 9.63
    config.model.network.update(embedding="fourier", encoder="residual")


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.update(steps=250, network={"name": "mlp"})
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


PRESETS = {
    "cifar10": cifar10,
    "cifar10_sub_vp": cifar10_sub_vp,
    "cifar10_ve": cifar10_ve,
    "digits": digits,
    "digits_sub_vp": digits_sub_vp,
    "digits_ve": digits_ve,
    "ring": ring,
    "tiny": tiny,
}
