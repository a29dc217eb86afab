"""PixelCNN++ (Salimans et al. 2017) and gated PixelCNN (van den Oord et al. 2016).

  python train.py --config configs/pixelcnn.py                      CIFAR-10, PixelCNN++, 53.7M parameters: 1 950 000 steps
  python train.py --config configs/pixelcnn.py:cifar10_conditional  the same, told the class
  python train.py --config configs/pixelcnn.py:cifar10_gated        CIFAR-10, gated PixelCNN
  python train.py --config configs/pixelcnn.py:digits               8x8 digits, in minutes on two CPU cores
  python train.py --config configs/pixelcnn.py:digits_gated         the same by gated PixelCNN
  python train.py --config configs/pixelcnn.py:digits_conditional   the same by PixelCNN++, told which digit
  python train.py --config configs/pixelcnn.py:tiny                 seconds: a check that everything works

Settings of "cifar10": openai/pixel-cnn, train.py, with batches of 16 on each of 8 GPUs, up to 5000 epochs; the learning rate
falls by 0.000005 of itself a step. The code adds 1e-8 to the mean square of the gradient of 128 images' sum, which for their
mean is about eps=1e-6 here. Those of "cifar10_gated" are this project's own: the paper gives none for CIFAR-10.

Expected:
  cifar10: 2.92 bits/dim (Salimans et al. 2017, table 1); not run here yet.
  cifar10_gated: 3.03 bits/dim in the paper (van den Oord et al. 2016, table 1); not run here yet.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="pixelcnn", network={"name": "pixelcnn_pp"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.optimizer.update(learning_rate=1e-3, b1=0.95, b2=0.9995, eps=1e-6)
    config.optimizer.update(schedule="exponential", horizon=200_000, ema_decay=0.9995, ema_warmup=False)
    config.train.update(steps=1_950_000, batch_size=128, sample_every=10_000, samples=16)


def cifar10_conditional(config: ConfigDict) -> None:
    cifar10(config)
    config.model.class_conditional = True


def cifar10_gated(config: ConfigDict) -> None:
    cifar10(config)
    config.model.network = ConfigDict({"name": "gated", "reach": 2})
    config.optimizer.learning_rate = 3e-4
    config.train.steps = 200_000


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.network.update(channels=32, num_layers=2, halvings=1, components=10)
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema_decay=0.99)
    config.train.update(steps=1500, batch_size=64, log_every=50, heldout_every=250, sample_every=500, checkpoint_every=500)


def digits_gated(config: ConfigDict) -> None:
    digits(config)
    config.model.network = ConfigDict({"name": "gated", "channels": 64, "num_layers": 4})


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.class_conditional = True


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.network.update(channels=8, num_layers=1, components=4, dropout=0.1)
    config.optimizer.update(learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    config.train.update(
        steps=100, batch_size=32, log_every=10, heldout_every=50, sample_every=50, samples=16, checkpoint_every=50
    )


PRESETS = {
    "cifar10": cifar10,
    "cifar10_conditional": cifar10_conditional,
    "cifar10_gated": cifar10_gated,
    "digits": digits,
    "digits_gated": digits_gated,
    "digits_conditional": digits_conditional,
    "tiny": tiny,
}
