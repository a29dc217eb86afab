"""Flow matching (Lipman et al. 2022), rectified flow (Liu et al. 2022) and minibatch optimal transport (Tong et al. 2024).

    python train.py --config configs/flow_matching.py                        CIFAR-10, I-CFM: 400 000 steps of batch 128
    python train.py --config configs/flow_matching.py:cifar10_ot             the same with minibatch optimal transport
    python train.py --config configs/flow_matching.py:cifar10_rectified      CIFAR-10, 1-rectified flow: 1 300 000 steps
    python train.py --config configs/flow_matching.py:cifar10_log_normal     CIFAR-10, times as of EDM: 180 000 steps
    python train.py --config configs/flow_matching.py:digits                 8x8 digits, in minutes on two CPU cores
    python train.py --config configs/flow_matching.py:digits_ot              the same with minibatch optimal transport
    python train.py --config configs/flow_matching.py:digits_dit             the same by a small DiT
    python train.py --config configs/flow_matching.py:digits_uvit            the same by a small U-ViT
    python train.py --config configs/flow_matching.py:digits_conditional     the same, told which digit
    python train.py --config configs/flow_matching.py:ring                   points of a plane: eight Gaussians, in a minute
    python train.py --config configs/flow_matching.py:ring_ot                the same with minibatch optimal transport
    python train.py --config configs/flow_matching.py:tiny                   seconds: a check that everything works

Settings of "cifar10" and "cifar10_ot": atong01/conditional-flow-matching, examples/images/cifar10; of "cifar10_rectified":
gnobitab/RectifiedFlow, ImageGeneration/configs; of "cifar10_log_normal": facebookresearch/flow_matching, examples/image.

Expected (none of CIFAR-10 run here yet):
    cifar10, cifar10_ot: FID about 3.6 with 100 steps of Euler (README.md of the authors' code).
    cifar10_rectified: FID 2.58, IS 9.60, 127 network evaluations (Liu et al. 2022, table 1).
    cifar10_log_normal: FID 2.07 (README.md of the authors' code).
    digits: Frechet distance 4.2, by the ODE 4.55 bits/dim, straightness 0.14, in seven minutes
        (results/digits_noise/flow_matching.json).
    digits_ot: 3.1, by the ODE 4.47 bits/dim, straightness 0.037 (results/digits_games/flow_matching-ot.json).
    digits_dit: 10.4, 4.59 bits/dim, straightness 0.15, in six minutes (results/digits_noise/flow_matching-dit.json).
    digits_uvit: 14.9, 5.00 bits/dim, straightness 0.16 (results/digits_games/flow_matching-uvit.json).
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="flow_matching", network={"name": "unet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.model.network.num_heads = 4  # 64 channels each
    config.optimizer.update(learning_rate=2e-4, warmup_steps=5000, clip_norm=1.0, ema_decay=0.9999)
    config.train.update(steps=400_000, batch_size=128, sample_every=10_000, checkpoint_every=5_000)


def cifar10_ot(config: ConfigDict) -> None:
    cifar10(config)
    config.model.coupling = "optimal_transport"


def cifar10_rectified(config: ConfigDict) -> None:
    cifar10(config)
    config.model.network = ConfigDict({"name": "song_unet", "channel_multipliers": (1, 2, 2, 2), "dropout": 0.15})
    config.optimizer.ema_decay = 0.999999
    config.train.steps = 1_300_000


def cifar10_log_normal(config: ConfigDict) -> None:
    cifar10(config)
    config.model.update(times="log_normal", time_mean=-1.2, time_std=1.2, sampler="heun", steps=50)
    config.model.network.update(channel_multipliers=(2, 2, 2), num_res_blocks=4, num_heads=1, scale_shift=True, dropout=0.3)
    config.optimizer.update(learning_rate=1e-4, b2=0.95, warmup_steps=0, clip_norm=0.0, ema_decay=0.999)
    config.train.update(steps=180_000, batch_size=512)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.network.update(channels=32, channel_multipliers=(1, 2), num_res_blocks=1, attention_resolutions=(4,))
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, clip_norm=1.0, ema_decay=0.995)
    config.train.update(steps=1200, batch_size=128, log_every=50, heldout_every=250, sample_every=400, checkpoint_every=400)


def digits_ot(config: ConfigDict) -> None:
    digits(config)
    config.model.coupling = "optimal_transport"


def digits_dit(config: ConfigDict) -> None:
    digits(config)
    config.model.network = ConfigDict({"name": "dit", "channels": 128, "depth": 6, "num_heads": 4})
    config.optimizer.learning_rate = 1e-3


def digits_uvit(config: ConfigDict) -> None:
    digits_dit(config)
    config.model.network.update(name="uvit", depth=7)


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.class_conditional = True


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.network = ConfigDict({"name": "mlp"})
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99)
    config.train.update(steps=3000, batch_size=512, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=1000)


def ring_ot(config: ConfigDict) -> None:
    ring(config)
    config.model.coupling = "optimal_transport"
    config.train.batch_size = 256


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.steps = 20
    config.model.network.update(channels=8, channel_multipliers=(1,), attention_resolutions=())
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {
    "cifar10": cifar10,
    "cifar10_ot": cifar10_ot,
    "cifar10_rectified": cifar10_rectified,
    "cifar10_log_normal": cifar10_log_normal,
    "digits": digits,
    "digits_ot": digits_ot,
    "digits_dit": digits_dit,
    "digits_uvit": digits_uvit,
    "digits_conditional": digits_conditional,
    "ring": ring,
    "ring_ot": ring_ot,
    "tiny": tiny,
}
