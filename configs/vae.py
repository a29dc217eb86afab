"""ConvVAE / beta-VAE with a Gaussian decoder (Kingma & Welling 2013; Higgins et al. 2017).

  python train.py --config configs/vae.py          CIFAR-10, 5.1M parameters
  python train.py --config configs/vae.py:digits   half a minute on two CPU cores
  python train.py --config configs/vae.py:digits_conditional     the same, told which digit
  python train.py --config configs/vae.py:ring     points of a plane: eight Gaussians
  python train.py --config configs/vae.py:binary_mnist     dynamically binarized MNIST, as in Burda et al. 2015, one layer of 50
  python train.py --config configs/vae.py:iwae_mnist       the same by the IWAE objective with 5 samples
  python train.py --config configs/vae.py:tiny     seconds: a check that everything works
  python train.py --config configs/vae.py:digits_sweep --config.model.beta=10 --workdir runs/beta-10    (or cifar10_sweep)

Expected:
  cifar10: the 100 000 steps are not yet run. After 1173 (3 epochs, ten minutes on a CPU): ELBO 6.37 bits/dim, reconstruction
    MSE 0.0209; reconstructions are blurred but recognizable, samples from the prior are not (results/cifar10/vae.json).
  digits: ELBO 4.18 bits/dim, IWAE 4.08 with 64 samples, reconstruction MSE 0.0227 (results/digits/vae.json).
  ring: all 8 modes in ten seconds, but with bridges between them, as the decoder is continuous: 42 % of the samples lie at a
    mode, histogram distance 0.61 (exact samples: 0.04; configs/ddpm.py:ring: 0.07). Samples are the decoder's means.
  binary_mnist, iwae_mnist: not yet evaluated. Burda et al., table 1: 86.76 and 85.54 nats with 5000 importance samples
    (`eval.py --tasks=likelihood --config.eval.likelihood.samples=5000 --config.eval.likelihood.names=iwae`).
  tiny: the loss falls from 180 to below 40 nats.

The sweep: a direction of the data stays in z only while its variance exceeds beta * sigma^2 (exactly so in a linear VAE: Lucas
et al. 2019, "Don't blame the ELBO!"). The largest variance is 2.79 on digits and 221.5 on CIFAR-10, so that beta = 10 collapses
above sigma^2 = 0.28 and 22.2, not at the presets' own values. The sweep presets take 0.5 (the loss is then the summed squared
error plus beta * KL) and 25: with those sigma^2 is a weight, no longer a fair model of the pixels.

  KL in nats at beta =           0.1    1     10
  digits, sigma^2 = 0.05         43.4   20.0  5.0       test images, after 4000 steps
  digits_sweep, sigma^2 = 0.5    20.0   5.0   0.0004    the same
  cifar10_sweep, sigma^2 = 25    17.1   1.7   0.001     training images, after 1173 steps (results/cifar10/vae-beta*.json)

`model.beta` weighs the KL term; `model.likelihood_variance` is sigma^2 of the decoder for images in [-1, 1]. Losses are in nats
per image, summed over pixels. The settings are this project's own: the papers have none for this network.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    return with_preset(base(name="vae", network={"name": "resnet"}), preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.optimizer.update(learning_rate=1e-3, warmup_steps=500, ema_decay=0.999)
    config.train.update(steps=100_000, batch_size=128)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(latent_dim=16, likelihood_variance=0.05)  # 64,196 parameters
    config.model.network.channels = 32
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100, ema_decay=0.99)
    config.train.update(steps=4000, batch_size=128, log_every=100, heldout_every=500, sample_every=1000, checkpoint_every=1000)


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.class_conditional = True


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.update(latent_dim=2, likelihood_variance=0.0025, network={"name": "mlp"})  # the variance of a component
    config.optimizer.update(learning_rate=2e-3, warmup_steps=50, ema_decay=0.99)
    config.train.update(steps=3000, batch_size=512, log_every=100, heldout_every=500, sample_every=500, checkpoint_every=1000)


def binary_mnist(config: ConfigDict) -> None:
    config.data.name = "binary_mnist"
    config.model.update(latent_dim=50, decoder="bernoulli")
    config.model.network = {"name": "mlp", "width": 200, "depth": 2, "activation": "tanh"}
    config.optimizer.update(learning_rate=1e-3, eps=1e-4, schedule="cosine", end_rate=1e-5, horizon=200_000)
    config.train.update(
        steps=200_000, batch_size=100, steps_per_dispatch=50, log_every=1000, heldout_every=5000, sample_every=50_000
    )
    config.train.checkpoint_every = 10_000


def iwae_mnist(config: ConfigDict) -> None:
    binary_mnist(config)
    config.model.importance_samples = 5


def tiny(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(latent_dim=4, likelihood_variance=0.1)  # 4,532 parameters
    config.model.network.channels = 8
    config.optimizer.update(learning_rate=5e-3, ema_decay=0.9)
    config.train.update(
        steps=150, batch_size=64, log_every=10, heldout_every=50, sample_every=75, samples=16, checkpoint_every=50
    )


def cifar10_sweep(config: ConfigDict) -> None:
    cifar10(config)
    config.model.likelihood_variance = 25.0


def digits_sweep(config: ConfigDict) -> None:
    digits(config)
    config.model.likelihood_variance = 0.5


PRESETS = {
    "cifar10": cifar10,
    "digits": digits,
    "digits_conditional": digits_conditional,
    "ring": ring,
    "binary_mnist": binary_mnist,
    "iwae_mnist": iwae_mnist,
    "tiny": tiny,
    "cifar10_sweep": cifar10_sweep,
    "digits_sweep": digits_sweep,
}
