"""Which extractor is chosen; and the classifier that is trained as one: once, whoever asks, however often interrupted."""

import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from configs.classifier import get_config
from gm_jax.build import resolve
from gm_jax.data import sources
from gm_jax.data.dataset import Dataset
from gm_jax.errors import InputError
from gm_jax.evaluation import extractors
from gm_jax.metrics import inception
from gm_jax.metrics.extractor import Extractor, extract
from gm_jax.system import provenance
from gm_jax.training import loop
from gm_jax.training.restore import restore
from tests.training.support import BATCHNORM, settings

AUTO = {"extractor": "auto", "inception": ""}
STEPS = 150


@pytest.fixture(scope="module")
def digits():
    return sources.load("digits")


def short_config(data_name):
    config = full_config(data_name)
    config["train"] |= {"steps": STEPS, "checkpoint_every": 50, "heldout_every": 0}
    config["optimizer"] |= {"horizon": STEPS}
    return config


full_config = extractors.classifier_config


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    """An empty cache, and less training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(extractors, "classifier_config", short_config)
        extractors._cached.cache_clear()
        yield
        extractors._cached.cache_clear()


@pytest.fixture(scope="module")
def classifier(digits):
    return extractors.choose(AUTO, digits)


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("it was trained already")

    monkeypatch.setattr(extractors, "_train", refuse)


# --- the classifier -----------------------------------------------------------------------------------------------------------


def test_small_images_are_seen_through_a_classifier_of_their_own(classifier, digits):
    assert classifier.name == "digits_classifier"
    found = extract(classifier, digits.x_test)
    assert found.features.shape == (296, 64) and found.logits.shape == (296, 10)
    assert (found.logits.argmax(1) == digits.y_test).mean() > 0.95
    np.testing.assert_allclose(extract(classifier, digits.x_test[:5], batch_size=2).features, found.features[:5], atol=1e-4)


def test_it_is_trained_once(classifier, digits, no_training):
    assert extractors.choose({**AUTO, "extractor": "classifier"}, digits) is classifier
    extractors._cached.cache_clear()  # as another process would
    again = extractors.choose(AUTO, digits)
    assert (again.name, again.digest) == (classifier.name, classifier.digest)
    workdir = extractors.trained_classifier(digits)
    assert classifier.digest == provenance.digest(restore(workdir).variables.params)
    assert not workdir.with_suffix(".unfinished").exists()


def test_other_images_or_labels_ask_for_another_one(classifier, digits, no_training):
    brighter, other = np.array(digits.x_train), np.array(digits.y_train)
    brighter[0, 0, 0, 0] += 1
    other[0] = (other[0] + 1) % 10
    for changed in (digits._replace(x_train=brighter), digits._replace(y_train=other)):
        with pytest.raises(AssertionError, match="trained already"):
            extractors.trained_classifier(changed)


def test_interrupted_training_goes_on_and_ends_the_same(classifier, digits, monkeypatch):
    finished = extractors.trained_classifier(digits)
    shutil.rmtree(finished)
    started = short_config("digits")
    started["train"] |= {"steps": 60}
    loop.train(started, finished.with_suffix(".unfinished"), digits, quiet=True)
    train, steps = loop.train, []

    def watch(config, workdir, *args, **kwargs):
        steps.append(restore(workdir).step)
        train(config, workdir, *args, **kwargs)

    monkeypatch.setattr(loop, "train", watch)
    assert extractors.trained_classifier(digits) == finished
    assert steps == [60]
    assert extractors.classifier_extractor(finished).digest == classifier.digest


def test_a_signal_is_an_interruption(digits, monkeypatch):
    def interrupted(*_, **__):
        raise loop.Interrupted("stopped at step 3", 143)

    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extractors.trained_classifier(digits._replace(name="other", y_train=digits.y_train[::-1]))


def test_of_two_that_ask_at_once_one_trains(digits, monkeypatch):
    trained = []

    def train(config, workdir, dataset):
        time.sleep(0.3)
        workdir.mkdir()  # fails, if the other one is at it
        trained.append(workdir)

    monkeypatch.setattr(extractors, "_train", train)
    data, found = digits._replace(name="both"), []
    threads = [threading.Thread(target=lambda: found.append(extractors.trained_classifier(data))) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(trained) == 1 and len(found) == 2 and found[0] == found[1] and found[0].is_dir()


def test_training_prints_one_line(digits, monkeypatch, capsys):
    config = short_config("digits")
    config["train"] |= {"steps": 2}
    monkeypatch.setattr(extractors, "classifier_config", lambda name: config)
    extractors.trained_classifier(digits._replace(name="brief"))
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("training a classifier of brief") and err.count("\n") == 1


def test_a_work_directory_serves_too(classifier, digits, tmp_path, no_training):
    workdir = extractors.trained_classifier(digits)
    assert extractors.choose({**AUTO, "extractor": str(workdir)}, None).digest == classifier.digest
    with pytest.raises(InputError, match="digits_classifier looks at images of 8x8x1, these are 4x4x3"):
        extract(classifier, np.zeros((2, 4, 4, 3), np.uint8))
    loop.train(settings(BATCHNORM, steps=1), tmp_path / "other")
    for folder, message in [("other", "holds a tests.toys.toy_batchnorm, no classifier"), ("", "holds no run")]:
        with pytest.raises(InputError, match=message):
            extractors.choose({**AUTO, "extractor": str(tmp_path / folder)}, digits)


def test_its_settings_are_those_of_the_config_file():
    for preset in ("digits", "mnist"):
        assert full_config(preset) == resolve(get_config(preset).to_dict())


@pytest.mark.parametrize(
    ("data_name", "name"),
    [("mnist", "mnist"), ("arrays:/a/my-shapes.npz", "my_shapes"), ("folder:/a/cats.and.dogs/", "cats_and_dogs")],
)
def test_names_are_fit_for_metrics(data_name, name):
    assert extractors._slug(data_name) == name


# --- the choice ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(monkeypatch):
    """Weights of Inception that need no file: the extractor's name tells the tap."""
    extractors._read_inception.cache_clear()
    monkeypatch.setattr(inception, "find_weights", lambda path: Path(path or "found"))
    monkeypatch.setattr(inception, "extractor", lambda path, tap: Extractor(f"inception{tap}", str(path), lambda v, x: x))
    yield
    extractors._read_inception.cache_clear()


def images(height, width, channels, labels=True):
    x, y = np.zeros((4, height, width, channels), np.uint8), np.zeros(4, np.int32)
    return Dataset("blank", x, y if labels else None, x, y if labels else None, ("0", "1") if labels else None)


def test_colour_images_of_some_size_are_seen_through_inception(weights, no_training):
    assert extractors.choose(AUTO, images(32, 48, 3)).name == "inceptionNone"
    assert extractors.choose(AUTO, None).name == "inceptionNone"
    for small_or_grey in (images(16, 32, 3), images(32, 32, 1), images(64, 64, 4)):
        with pytest.raises(AssertionError, match="trained"):
            extractors.choose(AUTO, small_or_grey)


def test_inception_if_asked_for(weights, digits):
    chosen = extractors.choose({"extractor": "inception768", "inception": "mine.npz"}, digits)
    assert (chosen.name, chosen.digest) == ("inception768", "mine.npz")
    assert extractors.choose({"extractor": "inception768", "inception": "mine.npz"}, digits) is chosen
    assert extractors.choose({"extractor": "inception", "inception": ""}, digits).digest == "found"


@pytest.mark.parametrize(
    ("extractor", "data", "message"),
    [
        ("auto", images(8, 8, 1, labels=False), "no classifier can be trained on blank without labels"),
        ("auto", images(8, 8, 1)._replace(class_names=("0",)), "blank has one class, of which nothing can be learnt"),
        ("classifier", None, "no classifier can be trained on images alone"),
        ("inception700", None, "no tap of 700 features; it has 64, 192, 768, 2048"),
        ("incepton", None, "unknown eval.extractor 'incepton'; give auto, inception"),
    ],
)
def test_what_cannot_be_had_is_one_clear_line(extractor, data, message):
    with pytest.raises(InputError, match=message) as error:
        extractors.choose({**AUTO, "extractor": extractor}, data)
    assert "\n" not in str(error.value)


def test_without_weights_it_says_how_to_get_them(monkeypatch):
    monkeypatch.delenv("GM_JAX_INCEPTION", raising=False)
    with pytest.raises(InputError, match="no weights of Inception found; set eval.inception or .*GM_JAX_INCEPTION"):
        extractors.choose(AUTO, images(32, 32, 3))
