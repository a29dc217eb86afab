"""Classes among samples, of plain and of stacked digits, by a classifier that knows them all."""

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Model, Variables
from gm_jax.data import sources
from gm_jax.evaluation import classes, extractors, tasks
from gm_jax.evaluation.context import Context
from gm_jax.metrics.extractor import Extractor, Features
from tests.evaluation.conftest import ToyData


@pytest.fixture
def knows_all(monkeypatch):
    """An extractor that reads the label out of the first pixel: level v is the class v % 10."""

    def fn(variables, images):
        return Features(jnp.zeros((len(images), 2)), jnp.eye(10)[images[:, 0, 0, 0].astype(int) % 10])

    monkeypatch.setattr(extractors, "choose", lambda settings, dataset: Extractor("oracle", "0", fn, {}))


def context(data, pixels, folder, n):
    """A model whose i-th sample has the first pixel pixels[i % len(pixels)]."""

    def sample(variables, keys, labels=None):
        raise AssertionError("replaced below")

    drawn = np.zeros((n, *data.image_shape), np.uint8)
    drawn[:, 0, 0] = np.resize(pixels, (n, data.image_shape[-1]))

    class Drawing(Context):
        def draw(self, progress=None):
            return drawn, None

    return Drawing(Model(lambda key, batch: Variables({}, {}), (), sample), Variables({}, {}), data, folder, n=n)


def test_a_model_of_one_digit_covers_one_class(knows_all, tmp_path):
    data = sources.load("digits")
    found = classes.classes(context(data, np.array([[3]], np.uint8), tmp_path, 40))
    assert found["classes_covered_40"]["value"] == 1 and found["classes_covered_40"]["of"] == 10
    share = (data.y_train == 3).mean()
    assert found["class_kl_40"]["value"] == pytest.approx(-np.log(share))
    assert found["class_kl_40_floor"]["n"] == 40


def test_channels_of_stacked_digits_are_told_apart(knows_all, tmp_path):
    data = sources.load("stacked_digits")
    triples = np.array([[1, 2, 3], [3, 2, 1]], np.uint8)
    found = classes.classes(context(data, triples, tmp_path, 10))
    assert found["classes_covered_10"] | {"value": 2, "of": 1000} == found["classes_covered_10"]
    assert found["class_kl_10"]["value"] == pytest.approx(np.log(500))


def test_data_without_labels_have_no_classes(tmp_path):
    unlabelled = Context(Model(None, (), lambda *args: None), Variables({}, {}), ToyData(np.zeros((4, 4, 4, 1))), tmp_path)
    assert not classes.has_classes(unlabelled) and "classes" in tasks.TASKS
