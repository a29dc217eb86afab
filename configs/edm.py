"""EDM (Karras et al. 2022).

    python train.py --config configs/edm.py                        CIFAR-10, DDPM++: 390 625 steps of batch 512
    python train.py --config configs/edm.py:cifar10_conditional    the same, told the class
    python train.py --config configs/edm.py:cifar10_ncsnpp         CIFAR-10, NCSN++
    python train.py --config configs/edm.py:digits                 8x8 digits, in minutes on two CPU cores
    python train.py --config configs/edm.py:digits_conditional     the same, told which digit
    python train.py --config configs/edm.py:ring                   points of a plane: eight Gaussians
    python train.py --config configs/edm.py:tiny                   seconds: a check that everything works

Settings of "cifar10": the paper, appendix F, and the authors' code (NVlabs/edm, train.py). Horizontal flips are part of the
augmentation, which the network is told of. Where the authors replace gradients that are not finite, a run here stops.

Expected:
    cifar10: FID 1.97, 35 network evaluations (the paper; the least of three measurements). Not yet run here.
    cifar10_conditional: FID 1.79 (the same). Not yet run here.
    cifar10_ncsnpp: FID 1.98 (the same). Not yet run here.
    digits: Frechet distance 6.2, by the ODE 4.40 bits/dim, in six minutes (results/digits_noise/edm.json).
    digits_conditional: 3.5, and of ten digits nine as asked for; guided by 2 all of them
        (results/digits_noise/edm-conditional.json).
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="edm", network={"name": "song_unet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.optimizer.update(
        learning_rate=1e-3,
        warmup_steps=19_531,  # 10 million images
        ema_decay=0.99929,  # a half-life of half a million
        ema_ramp=0.05,
    )
    config.train.update(steps=390_625, batch_size=512, sample_every=5_000, checkpoint_every=5_000)


def cifar10_conditional(config: ConfigDict) -> None:
    cifar10(config)
    config.model.class_conditional = True


def cifar10_ncsnpp(config: ConfigDict) -> None:
    cifar10(config)
    config.model.network.update(embedding="fourier", encoder="residual")


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(sigma_data=0.75, augment_probability=0.0)  # which takes longer than these steps to be of use
    config.model.network.update(channels=32, channel_multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(4,))
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema_decay=0.995)
    config.train.update(steps=1200, batch_size=128, log_every=50, heldout_every=250, sample_every=400, checkpoint_every=400)


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.augment_probability = 0.12
    config.model.update(class_conditional=True, label_dropout=0.1)  # which the paper has not: for guidance


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.update(sigma_max=20.0, sigma_data=1.4, network={"name": "mlp"})
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99)
    config.train.update(steps=3000, batch_size=512, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.augment_probability = 0.12
    config.model.network.update(channels=8, channel_multipliers=(1,), attention_resolutions=())
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {
    "cifar10": cifar10,
    "cifar10_conditional": cifar10_conditional,
    "cifar10_ncsnpp": cifar10_ncsnpp,
    "digits": digits,
    "digits_conditional": digits_conditional,
    "ring": ring,
    "tiny": tiny,
}
