"""Reflow (Liu et al. 2022): a flow that one step can follow, from a flow that has been trained.

    python train.py --config configs/flow_matching.py:digits --workdir runs/flow
    python train.py --config configs/reflow.py:digits \\
      --config.train.init_from=state/teacher=runs/flow:ema,params=runs/flow:ema      8x8 digits, in minutes on two CPU cores

    python train.py --config configs/reflow.py                                CIFAR-10: 300 000 steps of batch 128
    python train.py --config configs/reflow.py:cifar10_distill                the same, distilled to one step
    python train.py --config configs/reflow.py:ring                           points of a plane: eight Gaussians
    python train.py --config configs/reflow.py:tiny                           seconds: a check that everything works

Without train.init_from the teacher is an untrained network, and its student learns that. The teacher of "cifar10" is
configs/flow_matching.py:cifar10_rectified.

Expected (CIFAR-10 not run here yet):
    cifar10: FID 12.21 with one step, 3.36 by the ODE (2-rectified flow; the paper, table 1).
    cifar10_distill: FID 4.85 with one step (the same, distilled; the perceptual distance LPIPS in place of the square).
    digits: with one step a Frechet distance of 6.9, where the teacher's one step has 417 and its 100 steps 4.3; straightness
        0.0060 instead of 0.140, by the ODE 4.96 bits/dim (results/digits_games/reflow.json).
    ring: with one step all eight modes, and 0.87 of the samples at one of them; docs/sampling.md has more.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    network = {"name": "unet"}
    config = base(name="reflow", teacher={"name": "flow_matching", "network": network}, network=network)
    return with_preset(config, preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    network = {"name": "song_unet", "channel_multipliers": (1, 2, 2, 2), "dropout": 0.15}
    config.model.teacher.network = ConfigDict(network)
    config.model.network = ConfigDict(network)
    config.optimizer.update(learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0, ema_decay=0.9999)
    config.train.update(steps=300_000, batch_size=128, sample_every=10_000, checkpoint_every=5_000)


def cifar10_distill(config: ConfigDict) -> None:
    cifar10(config)
    config.model.distill = True


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.teacher_steps = 8
    for network in (config.model.teacher.network, config.model.network):
        network.update(channels=32, channel_multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(4,))
    config.optimizer.update(learning_rate=1e-3, warmup_steps=50, clip_norm=1.0, ema_decay=0.99)
    config.train.update(steps=400, batch_size=128, log_every=50, heldout_every=200, sample_every=200, checkpoint_every=200)


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.teacher.network = ConfigDict({"name": "mlp"})
    config.model.network = ConfigDict({"name": "mlp"})
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99)
    config.train.update(steps=1500, batch_size=512, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=500)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.teacher_steps = 2
    for network in (config.model.teacher.network, config.model.network):
        network.update(channels=8, channel_multipliers=(1,), attention_resolutions=())
    config.model.teacher.steps = 20
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "cifar10_distill": cifar10_distill, "digits": digits, "ring": ring, "tiny": tiny}
