"""What an autoencoder makes of test images."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax import images
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.pictures import grid_of_rows, latent
from gm_jax.evaluation.results import mean_and_stderr
from gm_jax.metrics.ssim import ssim, window_size

MEASURED_IMAGES = 10_000  # errors are measured on at most so many test images


def reconstructions(context: Context) -> dict[str, Any]:
    """reconstructions.png: n test images, row by row over their reconstructions; and the errors on the test split.

    Errors are those of 10 000 test images (of all, if fewer), whatever n:
    `reconstruction_mse` is the mean squared error a pixel and channel in [-1, 1] units, `reconstruction_squared_error` the
    same summed over an image, both of the decoder's output as it is, neither clipped nor rounded;
    `reconstruction_psnr` is 10 log10(255^2 / mse) in dB, with the mse of uint8 images over all pixels of all images;
    `reconstruction_ssim` the mean structural similarity (`metrics.ssim`) of uint8 images, with the width of its window.
    """
    model = context.model

    def reconstruct(variables, keys, originals, labels):
        x = images.to_float(originals)
        encode_keys, decode_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        x_hat = model.decode(variables, decode_keys, latent(model, variables, encode_keys, x, labels), labels)
        return x, x_hat.astype(jnp.float32)

    def rebuild(variables, keys, originals, labels):
        return images.to_uint8(reconstruct(variables, keys, originals, labels)[1])

    def errors(variables, keys, originals, labels):
        x, x_hat = reconstruct(variables, keys, originals, labels)
        rounded, axes = images.to_uint8(x_hat), (1, 2, 3)
        byte_error = rounded.astype(jnp.float32) - originals.astype(jnp.float32)
        return jnp.square(x_hat - x).sum(axes), jnp.square(byte_error).mean(axes), ssim(rounded, originals)

    shown, labels = context.real("test", context.n)
    rebuilt = context.map(rebuild, len(shown), shown, context.given_labels(labels))
    images.save_png(context.out / "reconstructions.png", _pairs_of_rows(shown, rebuilt))

    x, labels = context.real("test", MEASURED_IMAGES)
    squared, byte_mse, similarity = context.map(errors, len(x), x, context.given_labels(labels))
    measured = {"n": len(x), "split": "test"}
    return {
        "reconstruction_mse": mean_and_stderr(squared / math.prod(x.shape[1:])) | measured,
        "reconstruction_squared_error": mean_and_stderr(squared) | measured,
        "reconstruction_psnr": {"value": psnr(byte_mse.mean(dtype=np.float64)), "unit": "dB"} | measured,
        "reconstruction_ssim": mean_and_stderr(similarity) | measured | {"window": window_size(*x.shape[1:3])},
        "pictures": ["reconstructions.png"],
    }


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB for a mean squared error on the scale 0..255; infinite for an error of zero."""
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def _pairs_of_rows(above: np.ndarray, below: np.ndarray, columns: int = 8) -> np.ndarray:
    """A grid in which a row of the one is followed by the row of the other."""
    columns = min(columns, len(above))
    empty = np.full((-len(above) % columns, *above.shape[1:]), images.BACKGROUND, np.uint8)
    above, below = (np.concatenate([x, empty]).reshape(-1, columns, *x.shape[1:]) for x in (above, below))
    return grid_of_rows(np.stack([above, below], axis=1).reshape(-1, columns, *above.shape[2:]))
