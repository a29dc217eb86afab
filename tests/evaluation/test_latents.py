"""The tasks on latents: what their pictures show, pixel by pixel, of a model whose image is its latent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gm_jax.core import Latent, Model, Variables
from gm_jax.evaluation import latents, tasks
from gm_jax.evaluation.context import Context
from gm_jax.game import lerp
from tests.evaluation.conftest import ToyData

LAYERS = 6


def draw(variables, keys, labels=None):
    """[n, layer, 1]: every layer has the same number, of the key."""
    w = jax.vmap(lambda key: jax.random.uniform(key, minval=-1, maxval=1))(keys)
    return jnp.broadcast_to(w[:, None, None], (len(keys), LAYERS, 1))


def decode(variables, keys, w, labels=None):
    """The upper half shows the coarsest layer, the lower half the finest."""
    rows = jnp.concatenate([w[:, :1]] * 2 + [w[:, -1:]] * 2, axis=1)
    return jnp.broadcast_to(rows[..., None], (len(w), 4, 4, 1))


def sample(variables, keys, labels=None, *, truncation=None):
    w = draw(variables, keys)
    return decode(variables, keys, w if truncation is None else truncation * w)


@pytest.fixture
def context(tmp_path):
    model = Model(lambda key, batch: Variables({}, {}), (), sample, latents=(Latent("w", draw, decode, lerp, layers=True),))
    data = ToyData(np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), dtype=np.uint8))
    return Context(model, Variables({}, {}), data, tmp_path, n=3, seed=5)


def tiles(context, name, rows, columns):
    """The grey levels of upper and lower halves, [row, column, 2], from the picture that was written."""
    picture = np.asarray(Image.open(context.out / name).convert("L"), float)
    heights, widths = np.array(picture.shape) / (rows, columns)
    at = lambda i, j, share: picture[int((i + share) * heights), int((j + 0.5) * widths)]  # noqa: E731
    return np.array([[[at(i, j, share) for share in (0.3, 0.7)] for j in range(columns)] for i in range(rows)])


def test_a_walk_goes_evenly_from_one_sample_to_another(context):
    latents.walk(context)
    levels = tiles(context, "walk_w.png", 3, latents.STEPS)[..., 0]
    assert abs(np.diff(levels, 2, axis=1)).max() <= 2  # straight, but for rounding
    assert len(np.unique(levels[:, 0])) == 3 and (levels[:, 0] != levels[:, -1]).all()


def test_truncation_draws_the_same_samples_nearer_to_the_middle(context):
    latents.truncation(context)
    spread = abs(tiles(context, "truncation.png", len(latents.BOUNDS), 3)[..., 0] - 127.5)
    np.testing.assert_allclose(spread[:-1] / spread[-1], np.outer(latents.BOUNDS[:-1], np.ones(3)), atol=0.05)


def test_mixtures_have_the_coarse_layers_of_their_row_and_the_fine_ones_of_their_column(context):
    latents.style_mixing(context)
    levels = tiles(context, "style_mixing.png", 4, 4)
    side, top = levels[1:, 0, 0], levels[0, 1:, 0]
    assert len(set(side) | set(top)) == 6
    np.testing.assert_array_equal(levels[1:, 1:, 0], np.repeat(side[:, None], 3, axis=1))
    np.testing.assert_array_equal(levels[1:, 1:, 1], np.repeat(top[None], 3, axis=0))


def test_models_without_latents_are_not_asked(context):
    bare = context._replace(model=context.model._replace(latents=(), sample=lambda variables, keys, labels=None: None))
    for task in ("walk", "truncation", "style_mixing"):
        assert tasks._obstacle(tasks.TASKS[task], context) is None
        assert tasks._obstacle(tasks.TASKS[task], bare) is not None
