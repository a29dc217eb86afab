"""Stacked digits: every channel an image of the base, triples spread evenly over all combinations of labels."""

import numpy as np

from gm_jax.data.sources import load


def test_every_channel_is_an_image_of_the_same_split():
    data, digits = load("stacked_digits"), load("digits")
    assert data.image_shape == (8, 8, 3) and data.y_train is None and data.num_classes is None
    assert (len(data.x_train), len(data.x_test)) == (50_000, 10_000) and data.base.name == "digits"
    for split in ("x_train", "x_test"):
        known = {
            image.tobytes(): label
            for image, label in zip(getattr(digits, split), getattr(digits, split.replace("x", "y")), strict=True)
        }
        labels = np.array(
            [[known[channel.tobytes()] for channel in np.moveaxis(x, 2, 0)] for x in getattr(data, split)[:4000, ..., None]]
        )
        triples = labels @ [100, 10, 1]
        assert len(np.unique(triples)) > 950  # 4000 fair draws of 1000 find 982
        assert abs(np.corrcoef(labels.T) - np.eye(3)).max() < 0.06


def test_the_triples_are_always_the_same():
    first, again = load("stacked_digits"), load("stacked_digits")
    np.testing.assert_array_equal(first.x_train[:100], again.x_train[:100])
