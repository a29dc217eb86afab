"""What a critic is shown: nothing at p = 0, the distributions of the papers, and gradients all the way through."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import critic_augment as augment
from gm_jax.errors import InputError

# each program runs once or twice: what the compiler saves there is not worth its time
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
N = 64
KEYS = jax.random.split(jax.random.key(0), N)
X = jax.random.uniform(jax.random.key(1), (N, 8, 8, 3), minval=-1)
DIFF = partial(augment.diff_augment, policy=("color", "translation", "cutout"))
ALL = {"bgc": augment.bgc, "diff": lambda keys, x, p: DIFF(keys, x)}


def test_nothing_is_done_with_probability_zero():
    np.testing.assert_allclose(quick_jit(augment.bgc)(KEYS, X, 0.0), X, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_altered_by_its_own_key_and_the_gradient_comes_through(name, channels):
    x, alter = X[:8, ..., :channels], partial(ALL[name], p=1.0)
    y, pull = jax.vjp(lambda x: jax.jit(alter)(KEYS[:8], x), x)
    assert y.shape == x.shape and np.isfinite(y).all() and (np.abs(y - x).max((1, 2, 3)) > 1e-3).all()
    np.testing.assert_allclose(quick_jit(alter)(KEYS[2:4], x[2:4]), y[2:4], rtol=1e-4, atol=1e-4)
    (gradient,) = pull(jnp.ones_like(y))
    assert np.isfinite(gradient).all() and (np.abs(gradient).max((1, 2, 3)) > 0).all()


def test_turns_by_quarters_mix_the_four_directions_invertibly(monkeypatch):
    """A share 1 - p + p/4 stands upright, p/4 each in the others: (1 - p) I + p J / 4, of determinant (1 - p)^3."""
    monkeypatch.setattr(augment, "SHIFT", 0.0)
    p, n = 0.6, 8000
    image = jnp.arange(16.0).reshape(1, 4, 4, 1)
    upright = [jnp.rot90(image[0], k) for k in range(4)]
    seen = augment.blit(jax.random.split(jax.random.key(2), n), jnp.repeat(image, n, axis=0), p)
    mirrored = [turned[:, ::-1] for turned in upright]  # flips are made with p / 2, before the turn
    shares = np.array([[(seen == one).all((1, 2, 3)).mean() for one in kind] for kind in (upright, mirrored)])
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_allclose(shares.sum(1), [1 - p / 2, p / 2], atol=0.02)
    turned = shares[0] / shares[0].sum()
    mixing = (1 - p) * np.eye(4) + p / 4
    np.testing.assert_allclose(turned, mixing[0], atol=0.02)
    assert np.linalg.det(mixing) == pytest.approx((1 - p) ** 3)


def test_shifts_by_whole_pixels_mirror_the_edge():
    x = jnp.arange(8.0).reshape(1, 1, 8, 1)
    mirrored = np.take(np.asarray(x), np.asarray(augment._mirrored(jnp.arange(8) - 3, 8)), axis=2)[0, 0, :, 0]
    np.testing.assert_array_equal(mirrored, [3, 2, 1, 0, 1, 2, 3, 4])


def test_colour_matrices_are_those_of_their_parts():
    """Without brightness: luma is scaled by +-contrast, and a colour's distance from grey by contrast and saturation."""
    drawn = quick_jit(jax.vmap(lambda key: augment.color_matrix(key, 1.0)))(jax.random.split(jax.random.key(3), 20))
    for matrix, offset in zip(*(np.asarray(part, np.float64) for part in drawn), strict=True):
        luma = np.ones(3) / np.sqrt(3)
        scaled = matrix @ luma
        np.testing.assert_allclose(scaled, (scaled @ luma) * luma, atol=1e-5)  # grey stays grey
        rest = matrix - np.outer(scaled, luma)
        singular = np.linalg.svd(rest, compute_uv=False)
        np.testing.assert_allclose(singular, [singular[0], singular[0], 0], atol=1e-4)  # a rotation, scaled
        np.testing.assert_allclose(offset - offset.mean(), 0, atol=1e-5)  # brightness alike for all channels


def test_colour_strengths_have_the_spread_of_the_paper():
    keys = jax.random.split(jax.random.key(4), 4000)
    draw = quick_jit(jax.vmap(augment.color_matrix, (0, None)))
    matrices, _ = draw(keys, 1.0)
    contrast = np.abs(np.einsum("i,nij,j->n", augment.LUMA, matrices, augment.LUMA))
    assert np.log2(contrast).std() == pytest.approx(augment.CONTRAST_STD, rel=0.05)
    inverted = np.einsum("i,nij,j->n", augment.LUMA, matrices, augment.LUMA) < 0
    assert inverted.mean() == pytest.approx(0.5, abs=0.03)
    eye = jnp.eye(3)
    none, offset = draw(keys, 0.0)
    np.testing.assert_allclose(none, jnp.broadcast_to(eye, none.shape), atol=1e-6)
    assert not offset.any()


def test_probability_moves_one_way_or_the_other_and_stays_a_probability():
    p = jnp.float32(0.5)
    assert float(augment.adapted(p, 0.9, 100, 0.6, 1000)) == pytest.approx(0.6)
    assert float(augment.adapted(p, 0.1, 100, 0.6, 1000)) == pytest.approx(0.4)
    assert float(augment.adapted(jnp.float32(0.95), 0.9, 100, 0.6, 1000)) == 1.0
    assert float(augment.adapted(jnp.float32(0.05), 0.1, 100, 0.6, 1000)) == 0.0


# --- DiffAugment --------------------------------------------------------------------------------------------------------------


def test_translation_moves_by_up_to_an_eighth_and_cutout_takes_a_quarter_at_most():
    ones = jnp.ones((N, 16, 16, 1))
    moved = np.asarray(jax.vmap(augment.translation)(KEYS, ones))[..., 0]
    lost = 16 - moved.max(2).sum(1)
    assert set(lost) == {0.0, 1.0, 2.0}
    cut = 1 - np.asarray(jax.vmap(augment.cutout)(KEYS, ones))[..., 0]
    assert cut.sum((1, 2)).max() == 64 and 0 < cut.sum((1, 2)).min() < 64
    rows = cut.max(2).sum(1) * cut.max(1).sum(1)
    np.testing.assert_array_equal(rows, cut.sum((1, 2)))  # rectangles


def test_colours_of_diff_augment_keep_the_means_that_they_say():
    x = X[:8]
    brighter = jax.vmap(augment.brightness)(KEYS[:8], x) - x
    assert brighter.std((1, 2, 3)).max() < 1e-6 and np.abs(brighter).max() <= 0.5
    np.testing.assert_allclose(jax.vmap(augment.saturation)(KEYS[:8], x).mean(3), x.mean(3), atol=1e-6)
    contrasted = jax.vmap(augment.contrast)(KEYS[:8], x)
    np.testing.assert_allclose(contrasted.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-6)
    ratio = contrasted.std((1, 2, 3)) / x.std((1, 2, 3))
    assert ratio.min() >= 0.5 and ratio.max() <= 1.5


def test_colours_of_two_channels_are_refused():
    with pytest.raises(InputError, match="2 channels"):
        augment.color(KEYS, X[..., :2], 0.5)
