"""Adversarial models on one game: GAN, DCGAN, LSGAN, WGAN, WGAN-GP, SN-GAN, BigGAN (see gm_jax/models/gan.py for the papers).

python train.py --config configs/gan.py                       SN-GAN on CIFAR-10
python train.py --config configs/gan.py:cifar10_conditional   the same with projection
python train.py --config configs/gan.py:tiny                  seconds: a check that everything works
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, own, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="gan", network={"name": "resnet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.model.dequantize = True
    config.optimizer.update(learning_rate=2e-4, b1=0.0, b2=0.9, schedule="linear", horizon=250_000)
    own(config, "generator", ema_decay=0.999)
    config.train.update(steps=250_000, batch_size=64, sample_every=5_000, checkpoint_every=5_000)


def cifar10_conditional(config: ConfigDict) -> None:
    cifar10(config)
    config.model.class_conditional = True


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.latent_dim = 32
    config.model.network.update(generator_channels=32, generator_blocks=2, critic_channels=32, critic_blocks=3)
    config.optimizer.update(learning_rate=1e-3, b1=0.0, b2=0.9, schedule="linear", horizon=4000)
    own(config, "generator", ema_decay=0.99)
    config.train.update(steps=4000, batch_size=128, log_every=200, heldout_every=1000, sample_every=1000, checkpoint_every=2000)


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.class_conditional = True


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.update(latent_dim=2, loss="non_saturating", critic_norm="none", n_critic=1, generator_batch=1)
    config.model.network = ConfigDict({"name": "mlp"})
    config.optimizer.update(learning_rate=1e-3, b1=0.0, b2=0.99)
    own(config, "generator", ema_decay=0.99)
    config.train.update(steps=5000, batch_size=512, log_every=250, heldout_every=1000, sample_every=1000, checkpoint_every=2500)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.latent_dim = 8
    config.model.network.update(generator_channels=8, generator_blocks=1, critic_channels=8, critic_blocks=2, critic_halvings=1)
    config.model.n_critic = 2
    config.optimizer.update(learning_rate=2e-3, horizon=150)
    config.train.update(
        steps=150, batch_size=64, log_every=10, heldout_every=50, sample_every=75, samples=16, checkpoint_every=50
    )


PRESETS = {
    "cifar10": cifar10,
    "cifar10_conditional": cifar10_conditional,
    "digits": digits,
    "digits_conditional": digits_conditional,
    "ring": ring,
    "tiny": tiny,
}
