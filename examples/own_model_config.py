"""Probabilistic PCA, the model of examples/own_model.py (Tipping & Bishop 1999).

  python train.py --config examples/own_model_config.py:digits   seconds
  python eval.py --workdir runs/own_model_config-digits
  python -m gm_jax.study --preset=digits --models=vae,examples/own_model_config.py

Expected:
  cifar10: not yet run.
  digits: 331.0 nats (7.46 bits/dim) on 256 test images, where the closed-form maximum has 331.0; reconstruction MSE 0.0439.
  tiny: 348.1 nats, where the closed-form maximum has 347.9.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="examples.own_model"), preset, PRESETS)  # a key of MODELS, or the path of a module


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.model.latent_dim = 128
    config.optimizer.update(learning_rate=1e-3, ema_decay=0.999)
    config.train.update(steps=10_000, batch_size=256)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.optimizer.update(learning_rate=3e-3, ema_decay=0.99)
    config.train.update(steps=3000, batch_size=256, log_every=100, heldout_every=500, sample_every=1000, checkpoint_every=1000)


def tiny(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.latent_dim = 4
    config.optimizer.update(learning_rate=1e-2, ema_decay=0.9)
    config.train.update(
        steps=150, batch_size=256, log_every=10, heldout_every=50, sample_every=75, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "digits": digits, "tiny": tiny}
