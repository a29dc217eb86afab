"""VQ-VAE with a PixelCNN or a Transformer as the prior over its codes: two stages, one model.

  VQ-VAE          van den Oord, Vinyals & Kavukcuoglu 2017, "Neural discrete representation learning"   eq. 1-3; nets.codebook
  gated PixelCNN  van den Oord et al. 2016, "Conditional image generation with PixelCNN decoders"        nets.pixelcnn
  Transformer     Radford et al. 2019, "Language models are unsupervised multitask learners" (GPT-2)     nets.code_transformer

The encoder gives a vector z at every position of a grid; the nearest codebook vector e takes its place. The loss is that of
DeepMind's Sonnet example,

  |x - decode(e)|^2 / variance of the data  +  |sg(z) - e|^2  +  commitment * |z - sg(e)|^2      each term a mean over elements,

so that the weight of the commitment does not depend on the scale of the pixels nor on their number. Then the prior learns
p(codes). Both stages, codebooks and bounds are those of `gm_jax.quantized`, with one level.
"""

from typing import Literal

import jax.numpy as jnp

from gm_jax.conditioning import classes_of
from gm_jax.core import Model
from gm_jax.nets.code_priors import code_prior
from gm_jax.nets.vqvae_nets import Decoder, Encoder, code_grid
from gm_jax.quantized import Level, QuantizedAutoencoder, quantized_model
from gm_jax.settings import Count, Decay, NonNegative, Section, Whole, checked


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: jnp.dtype = jnp.float32,
    axis_name: str | None = None,
    data_variance: float | None = None,
    *,
    autoencoder_steps: Count = 50_000,
    num_codes: Count = 512,
    code_dim: Count = 64,
    channels: Count = 128,
    halvings: Count = 2,
    num_blocks: Whole = 2,
    commitment: NonNegative = 0.25,
    codebook: Literal["ema", "loss"] = "ema",
    codebook_decay: Decay = 0.99,
    restart_below: NonNegative = 0.03,
    class_conditional: bool = False,
    prior: Section("code_prior") = {"name": "pixelcnn"},  # noqa: B006 (read only)
) -> Model:
    """VQ-VAE and prior; by default Sonnet's networks and settings, which give an 8x8 grid of codes for 32x32 images.

    data_variance: of the training images in [-1, 1], which the reconstruction term is divided by; None: that of the batch that
    `init` sees. autoencoder_steps: length of stage one, objective "vqvae"; from then on the objective "prior" is active.
    num_codes, code_dim: size of the codebook. channels, halvings, num_blocks: see `nets.vqvae_nets`.
    codebook: "ema" or "loss". codebook_decay: of the running means, per step. restart_below: see `restart_dead_codes`, 0: off.
    class_conditional: the prior is given the label. Without labels a sample then draws one and a likelihood takes the mean over
    all classes, which count as equally frequent. The autoencoder never sees labels.
    prior: see `nets.code_priors`.

    Sampling option: `temperature` (1.0) of the prior. `nfe` counts the prior's evaluations, one for each code. `encode` gives
    the codes [batch, h, w]; `decode` takes them and clips to [-1, 1]. Likelihood "elbo" is the bound of `gm_jax.quantized`;
    "codes" its part -log p(c), of kind "code".

    Raises InputError for values out of range, images that cannot be halved so often, and labels where there is no use for them.
    """
    classes, grid = classes_of(num_classes, class_conditional), code_grid(image_shape, halvings)
    encoder = Encoder(code_dim, channels, halvings, num_blocks, dtype)
    decoder = Decoder(image_shape[-1], channels, halvings, num_blocks, dtype)
    return quantized_model(
        "vqvae",
        one_level(encoder, decoder, grid),
        [Level("codes", "prior", code_prior(prior, grid, num_codes, classes, dtype))],
        autoencoder_steps=autoencoder_steps,
        num_codes=num_codes,
        code_dim=code_dim,
        num_classes=classes,
        commitment=commitment,
        codebook=codebook,
        codebook_decay=codebook_decay,
        restart_below=restart_below,
        data_variance=data_variance,
        axis_name=axis_name,
    )


def one_level(encoder: Encoder, decoder: Decoder, grid: tuple[int, int]) -> QuantizedAutoencoder:
    """Encoder, codes in a grid, decoder."""

    def init(encoder_key, decoder_key, x):
        z, variables = encoder.init_with_output(encoder_key, x)
        return {"encoder": variables["params"], "decoder": decoder.init(decoder_key, z)["params"]}

    def encode(params, x, quantize):
        return (quantize(0, encoder.apply({"params": params["encoder"]}, x)),)

    def decode(params, vectors):
        return decoder.apply({"params": params["decoder"]}, *vectors)

    return QuantizedAutoencoder((grid,), init, encode, decode)
