"""The proxy metric of a run: what it measures, when, under which name; and that training takes no notice."""

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax import experiment
from gm_jax.data import sources
from gm_jax.data.dataset import subset
from gm_jax.errors import InputError
from gm_jax.evaluation import extractors, proxy
from gm_jax.evaluation.draw import draw_samples
from gm_jax.metrics import statistics
from gm_jax.metrics.extractor import Extractor, Features
from gm_jax.metrics.frechet import frechet_distance
from gm_jax.training.restore import recalibrated, restore
from tests.training.support import BATCHNORM, assert_identical, leaves, metrics, settings

VAE = {"name": "vae", "latent_dim": 4, "network": {"name": "resnet", "channels": 8}}


def quadrants(images):
    """Four features: the mean of each quarter of an image."""
    return images.reshape(len(images), 2, 4, 2, 4).mean((2, 4)).reshape(len(images), 4)


@pytest.fixture(autouse=True)
def four_features(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fn = lambda variables, x: Features(quadrants(x.astype(jnp.float32)))  # noqa: E731
    monkeypatch.setattr(extractors, "choose", lambda settings, dataset: Extractor("quadrants", "0", fn))


def curve(workdir):
    """(step, name, value) of every proxy in metrics.jsonl."""
    lines = metrics(workdir)
    return [(line["step"], key, line[key]) for line in lines for key in line if key.startswith("proxy/")]


def test_it_is_the_distance_of_averaged_samples_to_some_training_images(tmp_path):
    config = settings(BATCHNORM, steps=10, proxy_every=4, proxy_n=20)
    experiment.train(config, tmp_path / "run")
    steps, names, values = zip(*curve(tmp_path / "run"), strict=True)
    assert steps == (4, 8, 10) and set(names) == {"proxy/frechet_quadrants_20_train200"}
    assert len(set(values)) == 3

    restored, digits = restore(tmp_path / "run"), sources.load("digits")
    assert restored.weights == "ema"
    variables = recalibrated(restored.model, restored.variables, digits.x_train, digits.y_train)
    drawn = draw_samples(restored.model, variables, 20, seed=0)
    pair = (statistics.of(quadrants(np.float64(x))) for x in (drawn, digits.x_train[subset(len(digits.x_train), 200)]))
    np.testing.assert_allclose(values[-1], frechet_distance(*pair), rtol=1e-5)


def test_the_name_says_when_the_reference_is_the_whole_split(tmp_path):
    experiment.train(settings(BATCHNORM, steps=1, proxy_every=1, proxy_n=151), tmp_path / "run")
    assert [name for _, name, _ in curve(tmp_path / "run")] == ["proxy/frechet_quadrants_151_train"]


@pytest.mark.parametrize("steps_per_dispatch", [1, 4])
def test_training_takes_no_notice(tmp_path, steps_per_dispatch):
    common = {"steps": 7, "steps_per_dispatch": steps_per_dispatch}
    experiment.train(settings(BATCHNORM, **common), tmp_path / "without")
    experiment.train(settings(BATCHNORM, **common, proxy_every=3, proxy_n=5), tmp_path / "with")
    assert [step for step, *_ in curve(tmp_path / "with")] == [3, 6, 7]
    assert_identical(leaves(tmp_path / "with"), leaves(tmp_path / "without"))


def test_a_rerun_may_ask_for_it(tmp_path):
    experiment.train(settings(BATCHNORM, steps=2), tmp_path / "run")
    experiment.train(settings(BATCHNORM, steps=4, proxy_every=1, proxy_n=5), tmp_path / "run")
    assert [step for step, *_ in curve(tmp_path / "run")] == [3, 4]


def test_samples_that_are_not_finite_stop_nothing(tmp_path, monkeypatch, capsys):
    def broken(*_, **__):
        raise InputError("3 of 5 samples hold NaN")

    monkeypatch.setattr(proxy, "draw_samples", broken)
    experiment.train(settings(BATCHNORM, steps=2, proxy_every=1, proxy_n=5), tmp_path / "run")
    assert curve(tmp_path / "run") == []
    assert "step 1: no proxy/frechet_quadrants_5_train50 (3 of 5 samples hold NaN)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ({"name": "classifier", "channels": 8}, {}, "a classifier does not sample"),
        (VAE, {"proxy_n": 1}, "train.proxy_n is 1; give a whole number of at least 2"),
        (VAE, {"proxy_every": -1}, "train.proxy_every is -1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_training(tmp_path, model, fields, message):
    with pytest.raises(InputError, match=message):
        experiment.train(settings(model, steps=2, **{"proxy_every": 1, **fields}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_an_extractor_nothing_is_trained(tmp_path, monkeypatch):
    def missing(*_):
        raise InputError("no weights of Inception found")

    monkeypatch.setattr(extractors, "choose", missing)
    with pytest.raises(InputError, match="no weights"):
        experiment.train(settings(BATCHNORM, steps=2, proxy_every=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    experiment.train(settings(BATCHNORM, steps=2), tmp_path / "run")
