"""VQ-VAE-2: codes in two grids, and a prior for each, the finer one told the coarser one.

  VQ-VAE-2  Razavi, van den Oord & Vinyals 2019, "Generating diverse high-fidelity images with VQ-VAE-2"   algorithms 1, 2

  h_bottom = E_bottom(x),  z_top = E_top(h_bottom)                     the top grid is half as high and half as wide
  z_bottom = (h_bottom, D_top(e_top)) Q                                what the top tells the bottom, before quantization
  x        = D(up(e_top), e_bottom)                                    e: the nearest vectors of each grid's own codebook
  p(codes) = p(top) p(bottom | top)                                    PixelCNN or Transformer, each on its own

Both stages, codebooks and bounds are those of `gm_jax.quantized`, with the two levels "top" and "bottom". The paper has
PixelSNAIL priors for 256x256 images and up; here they are those of `nets.code_priors`, and the images 32x32 or so.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from gm_jax.conditioning import classes_of
from gm_jax.core import Model
from gm_jax.errors import InputError
from gm_jax.nets.code_priors import CoarseCodes, code_prior, told_coarser
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
    halvings: Count = 1,
    num_blocks: Whole = 2,
    commitment: NonNegative = 0.25,
    codebook: Literal["ema", "loss"] = "ema",
    codebook_decay: Decay = 0.99,
    restart_below: NonNegative = 0.03,
    class_conditional: bool = False,
    top_prior: Section("code_prior") = {"name": "pixelcnn"},  # noqa: B006 (read only)
    bottom_prior: Section("code_prior") = {"name": "pixelcnn"},  # noqa: B006
    told_channels: Count = 128,
    told_blocks: Whole = 2,
) -> Model:
    """VQ-VAE-2 and its priors; by default grids of 16x16 and 8x8 codes for 32x32 images.

    halvings: from the image to the bottom grid; the top grid is halved once more. Both grids have codebooks of `num_codes`
    vectors of `code_dim`. top_prior, bottom_prior: see `nets.code_priors`. told_channels, told_blocks: of the residual network
    that tells the bottom prior the top codes. All else as in `models.vqvae.make`: the objective "vqvae2" is active for
    `autoencoder_steps`, then "top_prior" and "bottom_prior" both.

    `encode` gives the codes [batch, n], the top grid's first, each in reading order; `decode` takes them. Sampling option:
    `temperature` (1.0) of both priors. `nfe` counts their evaluations, one for each code.

    Raises InputError for values out of range, images that cannot be halved so often, and labels where there is no use for them.
    """
    classes, bottom = classes_of(num_classes, class_conditional), code_grid(image_shape, halvings)
    if bottom[0] % 2 or bottom[1] % 2:
        raise InputError(
            f"halvings={halvings} gives a bottom grid of {bottom[0]}x{bottom[1]}, which has no half for the top one"
        )
    top = bottom[0] // 2, bottom[1] // 2
    fine = code_prior(bottom_prior, bottom, num_codes, classes, dtype)
    return quantized_model(
        "vqvae2",
        two_levels(image_shape[-1], code_dim, channels, halvings, num_blocks, (top, bottom), dtype),
        [
            Level("top", "top_prior", code_prior(top_prior, top, num_codes, classes, dtype)),
            Level("bottom", "bottom_prior", told_coarser(fine, CoarseCodes(num_codes, told_channels, told_blocks, dtype))),
        ],
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


def two_levels(
    image_channels: int,
    code_dim: int,
    channels: int,
    halvings: int,
    num_blocks: int,
    grids: tuple[tuple[int, int], tuple[int, int]],
    dtype: Any = jnp.float32,
) -> QuantizedAutoencoder:
    """The networks of algorithm 1, in the form of those of VQ-VAE (`nets.vqvae_nets`)."""
    encoders = {
        "bottom_encoder": Encoder(None, channels, halvings, num_blocks, dtype),
        "top_encoder": Encoder(code_dim, channels, 1, num_blocks, dtype),
        "top_decoder": Decoder(code_dim, channels, 1, num_blocks, dtype),
        "to_bottom": nn.Conv(code_dim, (1, 1), dtype=dtype),
    }
    decoders = {
        "up": nn.ConvTranspose(code_dim, (4, 4), strides=(2, 2), dtype=dtype),
        "decoder": Decoder(image_channels, channels, halvings, num_blocks, dtype),
    }
    networks = encoders | decoders

    def init(encoder_key, decoder_key, x):
        keys = [*jax.random.split(encoder_key, len(encoders)), *jax.random.split(decoder_key, len(decoders))]
        top, bottom = (jnp.zeros((1, *grid, code_dim)) for grid in grids)
        h = jnp.zeros((1, *grids[1], channels))
        inputs = x, h, top, jnp.zeros((1, *grids[1], channels + code_dim)), top, jnp.concatenate([bottom, bottom], axis=-1)
        named = zip(networks.items(), keys, inputs, strict=True)
        return {name: network.init(key, given)["params"] for (name, network), key, given in named}

    def apply(params, name, x):
        return networks[name].apply({"params": params[name]}, x)

    def encode(params, x, quantize):
        h = apply(params, "bottom_encoder", x)
        top = quantize(0, apply(params, "top_encoder", h))
        told = apply(params, "top_decoder", top.vectors)
        bottom = quantize(1, apply(params, "to_bottom", jnp.concatenate([told, h], axis=-1)).astype(jnp.float32))
        return top, bottom

    def decode(params, vectors):
        top, bottom = vectors
        return apply(params, "decoder", jnp.concatenate([apply(params, "up", top), bottom], axis=-1))

    return QuantizedAutoencoder(grids, init, encode, decode)
