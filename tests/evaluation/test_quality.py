"""The judging tasks, with an extractor whose answers are known: two averages of the pixels."""

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.evaluation import extractors, results, tasks
from gm_jax.evaluation.draw import draw_samples
from gm_jax.evaluation.neighbours import nearest
from gm_jax.metrics import frechet, statistics
from gm_jax.metrics.extractor import Extractor, Features

SHAPE = (4, 4, 1)
JUDGING = {"inception": "", "extractor": "auto", "reference": "train", "sets": 1}


def halves(variables, images):
    x = images.reshape(len(images), 2, -1).mean(-1) / 255.0
    return Features(x, jnp.stack([x[:, 0], x[:, 1], 1 - x[:, 0]], axis=1))


HALVES = Extractor("halves", "0" * 64, halves)


class Data:
    """Training images are uniform noise, test images are brighter."""

    name, image_shape, num_classes, y_train, y_test = "noise", SHAPE, None, None, None

    def __init__(self):
        rng = np.random.default_rng(0)
        self.x_train = rng.integers(0, 256, (200, *SHAPE), dtype=np.uint8)
        self.x_test = rng.integers(50, 256, (90, *SHAPE), dtype=np.uint8)


@pytest.fixture
def judged(context, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(extractors, "choose", lambda settings, dataset: HALVES)
    return context._replace(dataset=Data(), judging=JUDGING, batch_size=16)


def quality(context, **fields):
    return tasks.evaluate(["quality"], context._replace(**fields))["metrics"]


def distance(a, b):
    return frechet.frechet_distance(*(statistics.of(np.asarray(halves((), jnp.asarray(x)).features)) for x in (a, b)))


def test_the_distance_is_that_of_the_samples_features(judged, toy):
    measured = quality(judged, n=70)
    drawn = draw_samples(*toy, 70, judged.seed)
    entry = measured["frechet_halves_70_train"]
    assert entry["value"] == pytest.approx(distance(drawn, judged.dataset.x_train), rel=1e-4)
    assert entry["n"] == 70 and entry["extractor"]["name"] == "halves" and entry["reference"]["n"] == 200
    assert entry["weights"] == "ema" and entry["step"] == 7 and entry["nfe"] == 12


def test_the_floor_is_that_of_real_images_of_the_other_split(judged):
    floor = quality(judged, n=70)["frechet_halves_70_train_floor"]
    assert floor["value"] == pytest.approx(distance(judged.real("test", 70)[0], judged.dataset.x_train), rel=1e-4)
    assert floor["weights"] is None and floor["real"] == "noise test (70 at random)"


def test_the_reference_may_be_the_test_split(judged, toy):
    measured = quality(judged, n=70, judging=JUDGING | {"reference": "test"})
    expected = distance(draw_samples(*toy, 70, judged.seed), judged.dataset.x_test)
    assert measured["frechet_halves_70_test"]["value"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="train or test"):
        quality(judged, judging=JUDGING | {"reference": "validation"})


def test_sets_are_consecutive_samples_and_give_a_spread(judged, toy):
    entry = quality(judged, n=30, judging=JUDGING | {"sets": 3})["frechet_halves_30_train"]
    drawn = draw_samples(*toy, 90, judged.seed)
    values = [distance(drawn[i : i + 30], judged.dataset.x_train) for i in (0, 30, 60)]
    assert entry["value"] == pytest.approx(np.mean(values), rel=1e-4)
    assert entry["std"] == pytest.approx(np.std(values, ddof=1), rel=1e-3) and entry["sets"] == 3


@pytest.mark.parametrize("batch_size", [7, 70])
def test_the_batch_size_does_not_matter(judged, batch_size):
    one, other = quality(judged, n=70), quality(judged, n=70, batch_size=batch_size)
    for name, entry in one.items():
        assert other[name]["value"] == pytest.approx(entry["value"], rel=1e-5, abs=1e-7)


def test_an_interrupted_call_goes_on_where_it_was(judged, monkeypatch):
    whole, calls = quality(judged, n=70), []

    def failing(extractor, images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Features(*map(np.asarray, halves((), jnp.asarray(images))))

    monkeypatch.setattr("gm_jax.evaluation.quality.extract", failing)
    monkeypatch.setattr("gm_jax.metrics.store.PART", 16)
    interrupted = judged._replace(out=judged.out / "again", n=70)
    with pytest.raises(KeyboardInterrupt):
        tasks.evaluate(["quality"], interrupted)
    assert quality(interrupted)["frechet_halves_70_train"]["value"] == pytest.approx(
        whole["frechet_halves_70_train"]["value"], rel=1e-5
    )
    assert sum(calls) == 16 + 16 + 16 + 70 - 32  # the third batch was lost
    assert not list((interrupted.out / "unfinished").iterdir())


def test_a_model_that_takes_labels_is_sampled_with_all_classes(judged):
    labelled = judged.dataset
    labelled.num_classes, labelled.y_train = 10, np.arange(200, dtype=np.int32) % 10
    labelled.y_test = np.arange(90, dtype=np.int32) % 10
    conditional = judged._replace(model=judged.model._replace(num_classes=10))
    measured = quality(conditional, n=70)
    assert quality(judged, n=70)["frechet_halves_70_train"]["value"] != measured["frechet_halves_70_train"]["value"]
    assert measured["frechet_halves_70_train"]["sampling"] == {"labels": "balanced"}
    few = quality(conditional, n=70, labels=(7,))["frechet_halves_70_train"]
    assert few["sampling"] == {"labels": [7]}
    sevens = np.full((70, *SHAPE), round((1 + 7 / 10) * 127.5), np.uint8)
    assert few["value"] == pytest.approx(distance(sevens, labelled.x_train), rel=1e-3)
    drawn = np.asarray([round((1 + label / 10) * 127.5) for label in np.arange(70) % 10], np.uint8)
    images = np.broadcast_to(drawn[:, None, None, None], (70, *SHAPE))
    assert measured["frechet_halves_70_train"]["value"] == pytest.approx(distance(images, labelled.x_train), rel=1e-3)


def test_all_skips_what_has_no_extractor_and_says_why(judged, monkeypatch):
    def none(settings, dataset):
        raise InputError("no weights; get some")

    monkeypatch.setattr(extractors, "choose", none)
    assert tasks.evaluate(["all"], judged._replace(n=8))["skipped"]["quality"] == "no weights; get some"
    with pytest.raises(InputError, match="no weights; get some"):
        quality(judged)


def test_copies_have_no_distance_to_the_training_images(judged, monkeypatch):
    copies = judged.dataset.x_train[[3, 0, 199, 8]]
    monkeypatch.setattr("gm_jax.evaluation.context.draw_samples", lambda *args, **kwargs: copies)
    measured = tasks.evaluate(["neighbours"], judged._replace(n=4))["metrics"]
    assert measured["nearest_pixel_distance"]["value"] == 0
    assert measured["nearest_feature_distance"]["value"] == pytest.approx(0, abs=1e-6)
    assert measured["nearest_pixel_distance_floor"]["value"] > 10
    assert "neighbours.png" in results.read(judged.out / "results.json")["pictures"]


def test_nearest_agrees_with_brute_force(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(23, 5)).astype(np.float32), rng.normal(size=(40, 5)).astype(np.float32)
    monkeypatch.setattr("gm_jax.evaluation.neighbours.ROW_BYTES", 4 * 40 * 6)  # blocks of 6
    index, found = nearest(a, b, 3)
    distances = np.linalg.norm(a[:, None] - b[None], axis=-1)
    np.testing.assert_array_equal(index, np.argsort(distances, axis=1)[:, :3])
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :3], rtol=1e-5)
