"""Adversarial models on one game (gm_jax/models/gan.py has the papers), each paper with its own choices.

  python train.py --config configs/gan.py                       SN-GAN on CIFAR-10 (Miyato et al. 2018)
  python train.py --config configs/gan.py:cifar10_conditional   the same, told the class (Miyato & Koyama 2018)
  python train.py --config configs/gan.py:cifar10_dcgan         DCGAN (Radford et al. 2016)
  python train.py --config configs/gan.py:cifar10_lsgan         LSGAN (Mao et al. 2017), on the networks of DCGAN
  python train.py --config configs/gan.py:cifar10_wgan          WGAN with clipped weights (Arjovsky et al. 2017)
  python train.py --config configs/gan.py:cifar10_wgan_gp       WGAN-GP (Gulrajani et al. 2017)
  python train.py --config configs/gan.py:cifar10_ttur          the same with two time scales (Heusel et al. 2017)
  python train.py --config configs/gan.py:cifar10_biggan        BigGAN (Brock et al. 2019), told the class
  python train.py --config configs/gan.py:digits                8x8 digits, in minutes on two CPU cores
  python train.py --config configs/gan.py:digits_conditional    the same, told which digit
  python train.py --config configs/gan.py:digits_wgan_gp        the same by WGAN-GP
  python train.py --config configs/gan.py:mnist                 28x28 digits; mnist_conditional: told which
  python train.py --config configs/gan.py:ring                  points of a plane: eight Gaussians, in a minute
  python train.py --config configs/gan.py:tiny                  seconds: a check that everything works

Settings: "cifar10" and "cifar10_conditional", pfnet-research/sngan_projection; "cifar10_wgan_gp",
igul222/improved_wgan_training; "cifar10_biggan", ajbrock/BigGAN-PyTorch, scripts/launch_cifar_ema.sh (its initial weights are
smaller); "cifar10_ttur", Heusel et al. 2017, appendix A5; the others as their papers have them for other data. A step is an
update of the critic.

Expected (none of CIFAR-10 and MNIST run here yet):
    cifar10: FID 21.7 against the test images, IS 8.22 (Miyato et al. 2018, table 2). cifar10_biggan: FID 14.7 (Brock et al.).
    digits: Frechet distance 6.4, precision 0.57, recall 0.93, in six minutes (results/digits_games/gan.json).
    digits_conditional: 1.5 (real images: 1.1), and 99.7 % of the samples show the digit asked for
        (results/digits_games/gan-conditional.json).
    digits_wgan_gp: 5.3 (results/digits_games/gan-wgan-gp.json).
    ring: all 8 modes, 0.95 of the samples at one of them; docs/gans.md has the other losses.
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


def cifar10_wgan_gp(config: ConfigDict) -> None:
    cifar10(config)
    config.model.network.update(generator_channels=128, pool="mean")
    config.model.update(loss="wasserstein", critic_norm="none", penalty="gradient_penalty", penalty_weight=10.0)
    config.optimizer.horizon = 500_000
    config.train.steps = 500_000


def cifar10_ttur(config: ConfigDict) -> None:
    cifar10_wgan_gp(config)
    config.model.n_critic = 1
    config.optimizer.horizon = 100_000
    config.train.steps = 100_000
    own(config, "critic", learning_rate=3e-4)
    own(config, "generator", learning_rate=1e-4)


def cifar10_biggan(config: ConfigDict) -> None:
    cifar10_conditional(config)
    config.data.flip = True
    config.model.network.critic_channels = 256
    config.model.update(generator_spectral=True, n_critic=4, generator_batch=1, dequantize=False)
    config.optimizer.update(b2=0.999, schedule="constant")
    own(config, "generator", ema_decay=0.9999)
    config.train.update(steps=500_000, batch_size=50)


def cifar10_dcgan(config: ConfigDict) -> None:
    cifar10(config)
    config.model.network = ConfigDict({"name": "dcgan"})
    config.model.update(loss="non_saturating", critic_norm="batch", n_critic=1, generator_batch=1, dequantize=False)
    config.optimizer.update(b1=0.5, b2=0.999, schedule="constant")
    config.train.update(steps=100_000, batch_size=128)


def cifar10_lsgan(config: ConfigDict) -> None:
    cifar10_dcgan(config)
    config.model.loss = "least_squares"


def cifar10_wgan(config: ConfigDict) -> None:
    cifar10_dcgan(config)
    config.model.update(loss="wasserstein", n_critic=5)
    config.optimizer.update(name="rmsprop", learning_rate=5e-5, b2=0.99)
    own(config, "critic", weight_clip=0.01)
    config.train.update(steps=500_000, batch_size=64)


def digits(config: ConfigDict) -> None:
    config.data.name = "digits"
    config.model.update(latent_dim=32, dequantize=False)
    config.model.network.update(generator_channels=32, generator_blocks=2, critic_channels=32, critic_blocks=3)
    config.optimizer.update(learning_rate=1e-3, b1=0.0, b2=0.9, schedule="linear", horizon=4000)
    own(config, "generator", ema_decay=0.99)
    config.train.update(steps=4000, batch_size=128, log_every=200, heldout_every=1000, sample_every=1000, checkpoint_every=1000)


def digits_conditional(config: ConfigDict) -> None:
    digits(config)
    config.model.class_conditional = True


def digits_wgan_gp(config: ConfigDict) -> None:
    digits(config)
    config.model.network.pool = "mean"
    config.model.update(loss="wasserstein", critic_norm="none", penalty="gradient_penalty", penalty_weight=10.0)


def mnist(config: ConfigDict) -> None:
    cifar10(config)
    config.data.name = "mnist"
    config.model.update(latent_dim=64, dequantize=False)
    config.model.network.update(generator_channels=64, generator_blocks=2, critic_channels=64)
    config.optimizer.horizon = 20_000
    config.train.update(steps=20_000, sample_every=1_000, checkpoint_every=1_000)


def mnist_conditional(config: ConfigDict) -> None:
    mnist(config)
    config.model.class_conditional = True


def ring(config: ConfigDict) -> None:
    config.data.name = "ring"
    config.model.update(latent_dim=2, loss="non_saturating", critic_norm="none", n_critic=1, generator_batch=1)
    config.model.network = ConfigDict({"name": "mlp"})
    config.optimizer.update(learning_rate=1e-3, b1=0.0, b2=0.99)
    own(config, "generator", ema_decay=0.99)
    config.train.update(steps=3000, batch_size=512, log_every=250, heldout_every=1000, sample_every=1000, checkpoint_every=1500)


def tiny(config: ConfigDict) -> None:
    digits(config)
    config.model.update(latent_dim=8, n_critic=2)
    config.model.network.update(generator_channels=8, generator_blocks=1, critic_channels=8, critic_blocks=2, critic_halvings=1)
    config.optimizer.update(learning_rate=2e-3, horizon=150)
    config.train.update(
        steps=150, batch_size=64, log_every=10, heldout_every=50, sample_every=75, samples=16, checkpoint_every=50
    )


PRESETS = {
    "cifar10": cifar10,
    "cifar10_conditional": cifar10_conditional,
    "cifar10_dcgan": cifar10_dcgan,
    "cifar10_lsgan": cifar10_lsgan,
    "cifar10_wgan": cifar10_wgan,
    "cifar10_wgan_gp": cifar10_wgan_gp,
    "cifar10_ttur": cifar10_ttur,
    "cifar10_biggan": cifar10_biggan,
    "digits": digits,
    "digits_conditional": digits_conditional,
    "digits_wgan_gp": digits_wgan_gp,
    "mnist": mnist,
    "mnist_conditional": mnist_conditional,
    "ring": ring,
    "tiny": tiny,
}
