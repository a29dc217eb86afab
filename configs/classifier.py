"""A small convolutional classifier, as feature extractor for judging models of data that Inception was not made for.

  python train.py --config configs/classifier.py          CIFAR-10
  python train.py --config configs/classifier.py:digits   seconds on one CPU core
  python train.py --config configs/classifier.py:mnist    a minute on two CPU cores
  python train.py --config configs/classifier.py:tiny     seconds: a check that everything works

For data that Inception does not fit, eval.py trains one by itself, once, with the settings of digits and mnist. Another one
serves as --config.eval.extractor=WORKDIR.

Expected accuracy on the test images:
  cifar10: not yet run.
  digits: 98.6 %, after 10 seconds on one CPU core (22,106 parameters).
  mnist: 99.2 %, after 50 seconds of work of one CPU core (129,370 parameters).
  tiny: the loss falls from 2.30 (all classes equally probable) to below 1.3.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    config = base(name="classifier")
    config.precision = "float32"  # the same eyes on every device, as far as can be
    config.train.sample_every = 0
    return with_preset(config, preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.precision = "auto"
    config.model.update(features=128, channels=64, num_blocks=2)
    config.optimizer.update(
        learning_rate=2e-3, weight_decay=0.05, warmup_steps=500, schedule="cosine", horizon=20_000, ema_decay=0.999
    )
    config.train.update(steps=20_000, batch_size=256, heldout_every=500)


def digits(config: ConfigDict) -> None:
    """Of use for all small data: gm_jax/evaluation/extractors.py has the same settings."""
    config.data.name = "digits"
    config.optimizer.update(
        learning_rate=3e-3, weight_decay=0.3, warmup_steps=50, schedule="cosine", horizon=1500, ema_decay=0.99
    )
    config.train.update(steps=1500, batch_size=128, log_every=100, heldout_every=500, checkpoint_every=500)


def mnist(config: ConfigDict) -> None:
    digits(config)
    config.data.name = "mnist"


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.update(features=16, channels=8)
    config.optimizer.update(warmup_steps=10, horizon=60, ema_decay=0.9)
    config.train.update(steps=60, batch_size=64, log_every=10, heldout_every=30, checkpoint_every=30)


PRESETS = {"cifar10": cifar10, "digits": digits, "mnist": mnist, "tiny": tiny}
