"""VQ-VAE with a gated PixelCNN or a Transformer prior (van den Oord et al. 2017 and 2016): both stages by one command.

  python train.py --config configs/vqvae.py                      CIFAR-10: an 8x8 grid of 512 codes, then the prior
  python train.py --config configs/vqvae.py:cifar10_transformer  the same with a Transformer as the prior
  python train.py --config configs/vqvae.py:mnist                28x28 MNIST, a 7x7 grid of 64 codes, a Transformer
  python train.py --config configs/vqvae.py:digits               a minute or two on two CPU cores
  python train.py --config configs/vqvae.py:digits_transformer   the same with a Transformer as the prior
  python train.py --config configs/vqvae.py:tiny                 seconds: a check that everything works

Settings of "cifar10": DeepMind's Sonnet example (vqvae_example.ipynb), which has batches of 32, pixels in [-0.5, 0.5] (the loss
is the same on either scale) and a codebook learnt by gradient. The prior's settings are this project's own.

Expected:
  cifar10: the 100 000 steps are not yet run. After 1173 of stage one and 782 of the prior (3 and 2 epochs, half an hour on a
    CPU): reconstruction MSE 0.0176, perplexity 458 of 512 codes, 317 nats for the codes of an image (of 399 at 9 bits a code),
    ELBO 6.23 bits/dim; samples have the textures and the light of photographs, no objects yet (results/cifar10/vqvae.json).
  digits: reconstruction MSE 0.027 to 0.031, 14 to 15 of 16 codes in use by perplexity; the prior needs 28 to 34 nats for a test
    image, with the seed; ELBO 4.6 bits/dim (results/digits/vqvae.json). Reconstructions and most samples are readable digits.
  tiny: the loss of stage one falls from 1.1 to 0.3, the prior's from 43 to 26 nats.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, own, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    config = base(name="vqvae", prior={"name": "pixelcnn"})
    # own settings of the stages; only the prior is averaged, so that codes and decoder stay of one kind
    own(config, "vqvae", learning_rate=3e-4)
    own(config, "prior", learning_rate=3e-4, ema_decay=0.999)
    return with_preset(config, preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.train.update(steps=100_000, batch_size=128)


def cifar10_transformer(config: ConfigDict) -> None:
    cifar10(config)
    config.model.prior = ConfigDict({"name": "transformer"})
    own(config, "prior", learning_rate=3e-4, weight_decay=0.1, warmup_steps=1000, ema_decay=0.999)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(
        autoencoder_steps=1500,
        num_codes=16,
        code_dim=16,
        channels=32,
        halvings=1,
        codebook_decay=0.97,
    )
    config.model.prior.update(channels=32, num_layers=3)
    own(config, "vqvae", learning_rate=2e-3)
    # without decay the prior learns the 1501 training images by heart
    own(config, "prior", learning_rate=2e-3, weight_decay=1.0, ema_decay=0.99)
    config.train.update(steps=2500, batch_size=128, log_every=100, heldout_every=250, sample_every=500, checkpoint_every=500)


def digits_transformer(config: ConfigDict) -> None:
    digits(config)
    config.model.prior = ConfigDict({"name": "transformer", "channels": 64, "num_layers": 3, "num_heads": 4, "dropout": 0.2})
    own(config, "prior", learning_rate=2e-3, weight_decay=0.1, warmup_steps=100, ema_decay=0.99)


def mnist(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.model.update(autoencoder_steps=4000, num_codes=64, code_dim=32, channels=64, halvings=2)
    config.model.prior = ConfigDict({"name": "transformer", "channels": 128, "num_layers": 4, "num_heads": 4})
    own(config, "vqvae", learning_rate=1e-3)
    own(config, "prior", learning_rate=1e-3, weight_decay=0.1, warmup_steps=200, ema_decay=0.999)
    config.train.update(steps=12_000, batch_size=128, heldout_every=1000, sample_every=2000, checkpoint_every=2000)


def tiny(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(
        autoencoder_steps=100,
        num_codes=16,
        code_dim=4,
        channels=16,
        halvings=1,
        num_blocks=1,
    )
    config.model.prior.update(channels=16, num_layers=2)
    own(config, "vqvae", learning_rate=3e-3)
    own(config, "prior", learning_rate=5e-3, ema_decay=0.9)
    config.train.update(
        steps=200, batch_size=64, log_every=10, heldout_every=50, sample_every=100, samples=16, checkpoint_every=50
    )


PRESETS = {
    "cifar10": cifar10,
    "cifar10_transformer": cifar10_transformer,
    "mnist": mnist,
    "digits": digits,
    "digits_transformer": digits_transformer,
    "tiny": tiny,
}
