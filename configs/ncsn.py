"""Noise-conditional score networks (Song & Ermon 2019, 2020).

    python train.py --config configs/ncsn.py               CIFAR-10, NCSN: 200 000 steps of batch 128
    python train.py --config configs/ncsn.py:cifar10_v2    CIFAR-10, NCSNv2: 300 000 steps
    python train.py --config configs/ncsn.py:digits        8x8 digits, in minutes on two CPU cores
    python train.py --config configs/ncsn.py:ring          points of a plane: eight Gaussians
    python train.py --config configs/ncsn.py:tiny          seconds: a check that everything works

Settings of "cifar10" and "cifar10_v2": the authors' code (ermongroup/ncsn, configs/anneal.yml; ermongroup/ncsnv2,
configs/cifar10.yml). Their pixels are in [0, 1], here in [-1, 1]: sigmas are twice, epsilons four times theirs. Epsilons are
those of the code (see gm_jax/diffusion/langevin.py). Not taken over: for NCSN (not for NCSNv2) the authors add uniform noise of
one grey level to the training images.

Expected:
    cifar10: FID 25.32, IS 8.87 (the paper, with the checkpoint of the best FID on 1000 samples). Not yet run here.
    cifar10_v2: FID 10.87, IS 8.40; 31.75 and 8.73 with --config.eval.sample.denoise=False (the paper). Not yet run here.
    digits: the loss falls from 32 (half the number of pixels: a score of zero) to 7 in 1200 steps; readable digits.
    tiny: the loss falls from 29 to below 15.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="ncsn", network={"name": "refinenet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.optimizer.update(learning_rate=1e-3)
    config.train.update(steps=200_000, batch_size=128, sample_every=10_000, checkpoint_every=5_000)


def cifar10_v2(config: ConfigDict) -> None:
    cifar10(config)
    config.model.update(
        sigma_max=100.0,  # 50, twice: about the largest distance between two images
        levels=232,
        epsilon=2.48e-5,  # 6.2e-6, four times
        inner_steps=5,
        denoise=True,
        conditional=False,
        divide_by_sigma=True,
    )
    config.optimizer.update(learning_rate=1e-4, ema_decay=0.999, ema_warmup=False)
    config.train.steps = 300_000


def digits(config: ConfigDict) -> None:
    cifar10_v2(config)
    config.data.name = "digits"
    config.data.flip = False
    config.model.update(
        sigma_max=10.0,  # the largest distance between two digits is 9.63
        sigma_min=0.05,
        levels=20,
        epsilon=0.0,  # comes to 5.7e-4
        conditional=True,  # learns a little faster here
    )
    config.model.network.update(channels=32, channel_multipliers=(1, 2), num_res_blocks=1)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, clip_norm=1.0, ema_decay=0.995, ema_warmup=True)
    config.train.update(steps=1200, log_every=50, heldout_every=250, sample_every=400, checkpoint_every=400)


def ring(config: ConfigDict) -> None:
    digits(config)
    config.data.name = "ring"
    config.model.update(sigma_max=4.0, sigma_min=0.02)
    config.model.network = ConfigDict({"name": "mlp"})
    config.train.update(steps=3000, batch_size=512, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.update(levels=6, inner_steps=2)
    config.model.network.update(channels=8, channel_multipliers=(1,))
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "cifar10_v2": cifar10_v2, "digits": digits, "ring": ring, "tiny": tiny}
