"""The bilinear resize of TensorFlow 1, with which the FID of 2017 and all published values were computed.

Neither corners nor pixel centres are aligned: output pixel i lies at i * (input size / output size) in the input, clamped at
the far edge. So it shifts the image, does not smooth when it shrinks, and differs from every other library's.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num


def resize_bilinear(
    images: Num[Array, "batch height width channel"], height: int, width: int
) -> Float[Array, "batch {height} {width} channel"]:
    """`tf.image.resize_bilinear(align_corners=False, half_pixel_centers=False)`: float32, in the unit of the input.

    Two small matrix products, one per axis: every output pixel is a mean of at most four input pixels, weighted by nearness.
    """
    rows, columns = interpolation_matrix(images.shape[1], height), interpolation_matrix(images.shape[2], width)
    images = jnp.einsum("ih,bhwc->biwc", rows, images.astype(jnp.float32))
    return jnp.einsum("jw,biwc->bijc", columns, images)


def interpolation_matrix(size: int, new_size: int) -> Float[np.ndarray, "{new_size} {size}"]:
    """The linear map from `size` pixels in a row to `new_size`; its rows sum to 1."""
    position = np.arange(new_size) * (size / new_size)
    lower = position.astype(int)
    upper = np.minimum(lower + 1, size - 1)
    fraction = (position - lower)[:, None]
    return ((1 - fraction) * np.eye(size)[lower] + fraction * np.eye(size)[upper]).astype(np.float32)
