"""The training images nearest to samples: does the model remember instead of generating?"""

from typing import Any

import numpy as np
from jaxtyping import Float

from gm_jax import images
from gm_jax.evaluation import extractors
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.pictures import grid_of_rows
from gm_jax.evaluation.quality import real
from gm_jax.evaluation.results import mean_and_stderr
from gm_jax.metrics.extractor import extract

COLUMNS = 5
ROW_BYTES = 2**28  # of the distances that are in memory at once


def neighbours(context: Context) -> dict[str, Any]:
    """neighbours.png: a row a sample; behind it its 5 nearest training images by pixels, then its 5 nearest by features.

    `nearest_pixel_distance` is the mean over samples of the root mean squared difference of pixels (0..255) to the nearest
    training image, `nearest_pixel_distance_floor` the same for as many test images: samples far below it are copies.
    `nearest_feature_distance` likewise, Euclidean, in the extractor's features.
    """
    c = context
    extractor = extractors.choose(c.judging, c.dataset)
    train = c.dataset.x_train
    drawn, _ = c.draw(c.stage("samples"))
    test, _ = c.real("test", c.n)
    pixel_index, pixel_distance = nearest(_flat(drawn), _flat(train), COLUMNS)
    _, pixel_floor = nearest(_flat(test), _flat(train), 1)

    kept = real(c, extractor, "train").features
    feature_index, feature_distance = nearest(extract(extractor, drawn).features, kept, COLUMNS)
    _, feature_floor = nearest(extract(extractor, test).features, kept, 1)

    rows = np.concatenate([drawn[:, None], train[pixel_index], train[feature_index]], axis=1)
    images.save_png(c.out / "neighbours.png", grid_of_rows(rows))
    root = np.sqrt(drawn[0].size)
    by_features = {"extractor": {"name": extractor.name, "digest": extractor.digest}, "reference_n": len(train)}
    by_pixels = {"reference_n": len(train)}
    return {
        "nearest_pixel_distance": mean_and_stderr(pixel_distance[:, 0] / root) | by_pixels,
        "nearest_pixel_distance_floor": mean_and_stderr(pixel_floor[:, 0] / root) | by_pixels | {"n": len(test)},
        "nearest_feature_distance": mean_and_stderr(feature_distance[:, 0]) | by_features,
        "nearest_feature_distance_floor": mean_and_stderr(feature_floor[:, 0]) | by_features | {"n": len(test)},
        "pictures": ["neighbours.png"],
    }


def nearest(
    points: Float[np.ndarray, "n dim"], others: Float[np.ndarray, "m dim"], k: int
) -> tuple[np.ndarray, Float[np.ndarray, "n k"]]:
    """Indices [n, k] of the k nearest of `others` (of all, if there are fewer), nearest first, and their Euclidean distances.

    Found in float32 by the expansion of |a - b|^2, the distances of the k found then exactly.
    """
    k, norms = min(k, len(others)), np.einsum("md,md->m", others, others)
    step = max(1, ROW_BYTES // (4 * len(others)))
    blocks = [points[start : start + step] for start in range(0, len(points), step)]
    index = np.concatenate([np.argpartition(norms - 2 * block @ others.T, k - 1, axis=1)[:, :k] for block in blocks])
    distance = np.linalg.norm(points[:, None].astype(np.float64) - others[index], axis=-1)
    order = np.argsort(distance, axis=1)
    return np.take_along_axis(index, order, 1), np.take_along_axis(distance, order, 1)


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float32)
