"""Structural similarity of two images (Wang, Bovik, Sheikh & Simoncelli 2004, "Image quality assessment: from error visibility
to structural similarity", eq. 13):

    SSIM(x, y) = (2 mu_x mu_y + C1) (2 sigma_xy + C2) / ((mu_x^2 + mu_y^2 + C1) (sigma_x^2 + sigma_y^2 + C2))

with local means, variances and covariance under a Gaussian window, C1 = (0.01 * 255)^2 and C2 = (0.03 * 255)^2.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from gm_jax.core import ByteImages

WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def ssim(x: ByteImages, y: ByteImages) -> Float[Array, " batch"]:
    """The SSIM of each pair of images, in [-1, 1] and 1 for equal ones, as float32; under `jit` too.

    The mean over all places where the whole window lies in the image, of each channel by itself, then over channels. Variances
    are the window's own, without the correction for small samples. Raises ValueError for other dtypes and unequal shapes.
    """
    if x.dtype != np.uint8 or y.dtype != np.uint8 or x.shape != y.shape:
        raise ValueError(f"ssim compares uint8 images of one shape, not {x.dtype} {x.shape} and {y.dtype} {y.shape}")
    size = window_size(x.shape[1], x.shape[2])
    x, y = (jnp.asarray(a, jnp.float32) - 127.5 for a in (x, y))  # so that less cancels in the variances
    mean_x, mean_y = _local_mean(x, size), _local_mean(y, size)
    variance_x, variance_y = _local_mean(x * x, size) - mean_x**2, _local_mean(y * y, size) - mean_y**2
    covariance = _local_mean(x * y, size) - mean_x * mean_y
    mean_x, mean_y = mean_x + 127.5, mean_y + 127.5
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variance_x + variance_y + C2)
    return (luminance * structure).mean((1, 2, 3))


def window_size(height: int, width: int) -> int:
    """11, or for a smaller image the largest odd size that fits: the window is cut off, its sigma stays 1.5 pixels."""
    return min(WINDOW, (min(height, width) - 1) // 2 * 2 + 1)


def _local_mean(images: Float[Array, "batch height width channel"], size: int) -> Float[Array, "batch rows columns channel"]:
    """Under the window at every place where it fits whole: two small matrix products, one per axis."""
    rows, columns = (_window_matrix(length, size) for length in images.shape[1:3])
    exact = jax.lax.Precision.HIGHEST  # accelerators would round to fewer digits than the variances can spare
    images = jnp.einsum("ih,bhwc->biwc", rows, images, precision=exact)
    return jnp.einsum("jw,biwc->bijc", columns, images, precision=exact)


def _window_matrix(length: int, size: int) -> Float[np.ndarray, "places {length}"]:
    """Each row holds the weights of the window at one place; they sum to 1."""
    offset = np.arange(size) - size // 2
    weights = np.exp(-(offset**2) / (2 * SIGMA**2))
    weights = np.concatenate([weights / weights.sum(), np.zeros(length - size)])
    return np.stack([np.roll(weights, place) for place in range(length - size + 1)]).astype(np.float32)
