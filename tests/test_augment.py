"""Augmentations: what is drawn, what is told of it, and that each does what its name says."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import augment
from tests.parity.comparison import summary
from tests.parity.recipes import images

GOLDEN = json.loads((Path(__file__).parent / "golden/parity_augment.json").read_text())
X = images("augment", (4, 16, 24, 3)).astype(np.float32) / 127.5 - 1
transform = jax.jit(augment.transform)


def geometry(n=4, **fields):
    """Nothing but these."""
    return augment.Geometry(**{name: jnp.full(n, fields.get(name, 0.0)) for name in augment.Geometry._fields})


def test_nothing_done_is_the_image_and_a_label_of_zero():
    np.testing.assert_allclose(transform(X, geometry()), X, atol=1e-5)
    assert not augment.label(geometry()).any()


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        ({"flip_x": 1.0}, X[:, :, ::-1]),
        ({"flip_y": 1.0}, X[:, ::-1]),
        ({"shift_x": 1.0}, np.pad(X, [(0, 0), (0, 0), (3, 0), (0, 0)], mode="reflect")[:, :, :24]),  # 24 / 8
        ({"shift_y": -1.5}, np.pad(X, [(0, 0), (0, 3), (0, 0), (0, 0)], mode="reflect")[:, 3:]),
    ],
)
def test_whole_pixels_are_moved_as_they_are_and_mirrored_at_the_edge(done, expected):
    np.testing.assert_allclose(transform(X, geometry(**done)), expected, atol=2e-5)


def test_scaling_and_stretching_do_what_they_say_to_a_bump():
    """A Gaussian bump off the centre: its place and its width."""
    y, x = np.mgrid[:32, :32] - 15.5
    bump = np.exp(-((x - 4) ** 2 + y**2) / (2 * 2.5**2)).astype(np.float32)[None, :, :, None]

    def moments(**done):
        mass = np.asarray(transform(bump, geometry(1, **done)))[0, :, :, 0] ** 2  # a bump again, narrower by sqrt(2)
        mean = [(mass * axis).sum() / mass.sum() for axis in (x, y)]
        return *mean, *((2 * (mass * (axis - m) ** 2).sum() / mass.sum()) ** 0.5 for axis, m in zip((x, y), mean, strict=True))

    by, tolerance = 2**0.4, {"rtol": 0.03, "atol": 0.05}
    np.testing.assert_allclose(moments(), (4, 0, 2.5, 2.5), **tolerance)
    np.testing.assert_allclose(moments(scale=2.0), (4 * by, 0, 2.5 * by, 2.5 * by), **tolerance)
    np.testing.assert_allclose(moments(stretch=2.0), (4 * by, 0, 2.5 * by, 2.5 / by), **tolerance)
    np.testing.assert_allclose(moments(stretch=2.0, axis=jnp.pi / 2), (4 / by, 0, 2.5 / by, 2.5 * by), **tolerance)
    np.testing.assert_allclose(moments(angle=jnp.pi / 6), (4 * 0.75**0.5, -2, 2.5, 2.5), **tolerance)


def test_images_and_labels_are_those_of_the_authors_pipe():
    """`AugmentPipe` of training/augment.py of NVlabs/edm with p=0.5, xflip=1e8, yflip=scale=rotate_frac=aniso=translate_frac=1
    on the images X, given what it drew."""
    done = augment.Geometry(**{name: jnp.array(value, jnp.float32) for name, value in GOLDEN["geometry"].items()})
    np.testing.assert_allclose(augment.label(done).ravel(), GOLDEN["values"]["label"], atol=1e-6)
    for i, image in enumerate(np.asarray(transform(X, done))):
        np.testing.assert_allclose(summary({"": image})[""], GOLDEN["values"][f"image {i}"], atol=2e-5)


def test_draws_have_the_distributions_of_the_paper():
    n, p = 20_000, 0.2
    drawn = jax.jit(augment.draw_geometry, static_argnums=1)(jax.random.split(jax.random.key(0), n), p)
    shares = {name: float((getattr(drawn, name) != 0).mean()) for name in drawn._fields}
    expected = {"flip_x": 0.5, "flip_y": p / 2, "axis": 0.5}
    for name, share in shares.items():
        q = expected.get(name, p)
        assert abs(share - q) < 4 * (q * (1 - q) / n) ** 0.5, name
    for name in ("scale", "stretch", "shift_x", "shift_y"):
        values = getattr(drawn, name)[getattr(drawn, name) != 0]
        assert abs(values.std() - 1) < 0.06 and abs(values.mean()) < 0.07
    assert ((drawn.shift_x != 0) == (drawn.shift_y != 0)).all()
    together = np.corrcoef(np.stack([np.asarray(value) for value in drawn]))
    assert np.abs(together - np.eye(8)).max() < 4 / n**0.5 + 0.005


def test_an_example_is_altered_by_its_own_key_alone():
    keys = jax.random.split(jax.random.key(1), 4)
    run = jax.jit(lambda keys, x: augment.geometric(keys, x, 0.8))
    (together, labels), (alone, own) = run(keys, X), run(keys[2:3], X[2:3])
    np.testing.assert_allclose(together[2:3], alone, atol=1e-5)
    np.testing.assert_array_equal(labels[2:3], own)
    assert labels.shape == (4, augment.LABELS) and len(np.unique(labels, axis=0)) == 4
