"""RAE: an autoencoder with a smooth decoder in the place of noise (Ghosh et al. 2020). It reconstructs, but does not sample.

  python train.py --config configs/rae.py          CIFAR-10
  python train.py --config configs/rae.py:digits   half a minute on two CPU cores
  python train.py --config configs/rae.py:tiny     seconds: a check that everything works

For samples train `configs/expost.py:digits_rae`, which fits a density to its latents. Settings are this project's own.

Expected:
  cifar10, digits: not yet run. tiny: the loss falls.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="rae", network={"name": "resnet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.optimizer.update(learning_rate=1e-3, warmup_steps=500, ema_decay=0.999)
    config.train.update(steps=100_000, batch_size=128)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(latent_dim=16, beta=0.1, weight=0.01)
    config.model.network.channels = 32
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema_decay=0.99)
    config.train.update(steps=4000, batch_size=128, log_every=100, heldout_every=500, sample_every=0, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(latent_dim=4, network={"name": "mlp", "width": 32})
    config.optimizer.update(learning_rate=5e-3, ema_decay=0.9)
    config.train.update(steps=150, batch_size=64, log_every=10, heldout_every=50, sample_every=0, checkpoint_every=50)


PRESETS = {"cifar10": cifar10, "digits": digits, "tiny": tiny}
