"""VQ-VAE-2 (Razavi et al. 2019): codes in two grids, the priors of both, and all stages by one command.

  python train.py --config configs/vqvae2.py          CIFAR-10: grids of 16x16 and 8x8 of 512 codes, then both priors
  python train.py --config configs/vqvae2.py:mnist    28x28 MNIST: 14x14 and 7x7 of 64 codes
  python train.py --config configs/vqvae2.py:digits   8x8 digits: 4x4 and 2x2 of 16 codes, in minutes on two CPU cores
  python train.py --config configs/vqvae2.py:tiny     seconds: a check that everything works

The paper has no images as small as these: its networks, codebooks and weights of the loss are kept (128 channels, 512 codes of
64 numbers, commitment 0.25), with one halving to the bottom grid instead of two. The priors' settings are this project's own:
a Transformer for the top grid, which is small and holds the shape, a gated PixelCNN for the bottom one.

Expected:
  cifar10, mnist: not yet run.
"""

from ml_collections import ConfigDict

from gm_jax.cli.presets import base, own, with_preset


def get_config(preset: str = "cifar10") -> ConfigDict:
    config = base(name="vqvae2", top_prior={"name": "transformer"}, bottom_prior={"name": "pixelcnn"})
    # own settings of the stages; only the priors are averaged, so that codes and decoder stay of one kind
    own(config, "vqvae2", learning_rate=3e-4)
    own(config, "top_prior", learning_rate=3e-4, weight_decay=0.1, warmup_steps=1000, ema_decay=0.999)
    own(config, "bottom_prior", learning_rate=3e-4, ema_decay=0.999)
    return with_preset(config, preset, PRESETS)


def cifar10(config: ConfigDict) -> None:
    config.data.name = "cifar10"
    config.data.flip = True
    config.train.update(steps=100_000, batch_size=128)


def mnist(config: ConfigDict) -> None:
    config.data.name = "mnist"
    config.model.update(autoencoder_steps=3000, num_codes=64, code_dim=32, channels=32, told_channels=32)
    config.model.top_prior.update(channels=128, num_layers=4, num_heads=4)
    config.model.bottom_prior.update(channels=32, num_layers=6)
    own(config, "vqvae2", learning_rate=1e-3)
    own(config, "top_prior", learning_rate=1e-3, warmup_steps=200)
    own(config, "bottom_prior", learning_rate=1e-3)
    config.train.update(steps=9000, batch_size=128, heldout_every=1000, sample_every=1000, checkpoint_every=1000)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(
        autoencoder_steps=1500, num_codes=16, code_dim=16, channels=32, codebook_decay=0.97, told_channels=32, told_blocks=1
    )
    config.model.top_prior.update(channels=64, num_layers=2, num_heads=4, dropout=0.2)
    config.model.bottom_prior.update(channels=32, num_layers=3)
    own(config, "vqvae2", learning_rate=2e-3)
    # without decay the priors learn the 1501 training images by heart
    own(config, "top_prior", learning_rate=2e-3, warmup_steps=100, ema_decay=0.99)
    own(config, "bottom_prior", learning_rate=2e-3, weight_decay=1.0, ema_decay=0.99)
    config.train.update(steps=2500, batch_size=128, log_every=100, heldout_every=250, sample_every=500, checkpoint_every=500)


def tiny(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(autoencoder_steps=100, num_codes=16, code_dim=4, channels=16, num_blocks=1)
    config.model.update(told_channels=8, told_blocks=1)
    config.model.top_prior.update(channels=16, num_layers=1, num_heads=2, dropout=0.0)
    config.model.bottom_prior.update(channels=16, num_layers=2)
    own(config, "vqvae2", learning_rate=3e-3)
    own(config, "top_prior", learning_rate=5e-3, warmup_steps=10, ema_decay=0.9)
    own(config, "bottom_prior", learning_rate=5e-3, ema_decay=0.9)
    config.train.update(
        steps=200, batch_size=64, log_every=10, heldout_every=50, sample_every=100, samples=16, checkpoint_every=50
    )


PRESETS = {"cifar10": cifar10, "mnist": mnist, "digits": digits, "tiny": tiny}
