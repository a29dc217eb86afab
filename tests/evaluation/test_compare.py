"""Images of any origin: what comes out is named, traceable and right; what cannot be judged is refused in one line."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gm_jax.data import sources
from gm_jax.errors import InputError
from gm_jax.evaluation import compare
from gm_jax.metrics import statistics
from gm_jax.metrics.extractor import extract, from_callable
from gm_jax.metrics.frechet import frechet_distance

SETTINGS = {"extractor": "auto", "inception": ""}
SHAPE = (8, 8, 1)


def halves(images):
    """Mean levels of the left and of the right half, in 0..1."""
    x = images.astype(jnp.float32) / 255
    return jnp.stack([x[:, :, :4].mean((1, 2, 3)), x[:, :, 4:].mean((1, 2, 3))], axis=1)


@pytest.fixture(autouse=True)
def chosen(monkeypatch, tmp_path):
    """An extractor that costs nothing in place of a network; the data sets that it was chosen for are recorded."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where statistics are cached
    extractor, datasets = from_callable(halves, "halves", "1", jit=True), []

    def choose(settings, dataset):
        assert settings == SETTINGS
        datasets.append(dataset)
        return extractor

    monkeypatch.setattr(compare.extractors, "choose", choose)
    return extractor, datasets


def made(n, seed=0, brightness=255):
    return np.random.default_rng(seed).integers(0, brightness + 1, (n, *SHAPE), np.uint8)


@pytest.fixture
def npz(tmp_path):
    """Writes images (and other arrays) and returns the file's name."""

    def write(name, images=None, **arrays):
        path = tmp_path / f"{name}.npz"
        np.savez(path, **({} if images is None else {"images": images}), **arrays)
        return str(path)

    return write


def distance(features, others):
    return frechet_distance(statistics.of(features), statistics.of(others))


def test_the_distance_is_that_of_the_features_under_the_name_of_its_protocol(npz, chosen):
    images, others = made(40), made(60, 1, brightness=200)
    found = compare.compare(npz("fakes", images), npz("my photos", others), SETTINGS)
    expected = distance(*(extract(chosen[0], x).features for x in (images, others)))
    assert found["frechet_halves_40_my_photos"]["value"] == pytest.approx(expected, rel=1e-6)
    assert any(name.startswith("kid_") for name in found) and any(name.startswith("precision_") for name in found)
    assert chosen[1] == [None]


def test_a_set_against_itself(npz):
    file = npz("same", made(40))
    found = compare.compare(file, file, SETTINGS)
    assert found["frechet_halves_40_same"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["precision_halves_40_same"]["value"] == found["recall_halves_40_same"]["value"] == 1


def test_every_entry_says_where_it_comes_from(npz):
    files = npz("a", made(12)), npz("b", made(15, 1)), npz("c", made(12, 2))
    found, other = (compare.compare(file, files[1], SETTINGS) for file in (files[0], files[2]))
    for name, entry in found.items():
        assert entry["images"]["name"] == files[0] and entry["images"]["n"] == entry["n"] == 12
        assert entry["images"]["digest"] != other[name]["images"]["digest"]
        assert entry["reference"]["name"] == files[1] and entry["reference"]["n"] == 15
        assert entry["extractor"] == {"name": "halves", "digest": "1"}
        assert {"gm_jax", "jax"} <= set(entry["versions"]) and "cpu" in entry["device"]


def test_a_folder_of_pictures_is_the_same_as_its_pixels(npz, tmp_path):
    images, reference = made(12), npz("b", made(15, 1))
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(folder / f"{i:02}.png")
    found, same = (compare.compare(source, reference, SETTINGS) for source in (str(folder), npz("a", images)))
    assert {name: entry["value"] for name, entry in found.items()} == {name: entry["value"] for name, entry in same.items()}
    digests = {entry["images"]["digest"] for entries in (found, same) for entry in entries.values()}
    assert len(digests) == 1


def test_splits_of_data_sets(chosen, npz):
    digits = sources.load("digits")
    found = compare.compare("digits:test", "digits:train", SETTINGS)
    [entry] = [entry for name, entry in found.items() if name == "frechet_halves_296_train"]
    expected = distance(*(extract(chosen[0], x).features for x in (digits.x_test, digits.x_train)))
    assert entry["value"] == pytest.approx(expected, rel=1e-6)
    assert (entry["images"]["name"], entry["reference"]["name"]) == ("digits test", "digits train")
    compare.compare(npz("a", made(12)), "digits:test", SETTINGS)
    assert [dataset.name for dataset in chosen[1]] == ["digits", "digits"]  # so that a classifier of it can be had


def test_statistics_serve_as_reference_of_the_distance_alone(npz, chosen):
    images, others = made(40), extract(chosen[0], made(60, 1)).features
    real = statistics.of(others)
    file = npz("stats", mu=real.mean, sigma=real.covariance)
    found = compare.compare(npz("a", images), file, SETTINGS)
    expected = distance(extract(chosen[0], images).features, others)
    assert found["frechet_halves_40_stats"]["value"] == pytest.approx(expected, rel=1e-6)
    assert len(found) == 1
    with pytest.raises(InputError, match="statistics of 3 features, but halves makes 2"):
        compare.compare(npz("a", images), npz("other", mu=np.zeros(3), sigma=np.eye(3)), SETTINGS)


def test_progress_is_told_stage_by_stage(npz):
    seen = {}

    def stage(name):
        return lambda done, total: seen.update({name: (done, total)})

    a, b = npz("a", made(12)), npz("b", made(15, 1))
    compare.compare(a, b, SETTINGS, stage=stage)
    assert seen == {f"features of {b}": (15, 15), f"features of {a}": (12, 12)}


def test_an_interrupted_comparison_goes_on(npz, chosen, monkeypatch, tmp_path):
    monkeypatch.setattr("gm_jax.metrics.store.PART", 512)
    files = npz("a", made(2500)), npz("b", made(15, 1))
    expected = compare.compare(*files, SETTINGS)
    seen = []

    def stage(name, last=None):
        def progress(done, total):
            seen.append(done)
            if total == 2500 and done == last:
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        compare.compare(*files, SETTINGS, stage=lambda name: stage(name, last=1280))
    seen.clear()
    assert compare.compare(*files, SETTINGS, stage=stage) == expected
    assert seen[0] == 1024 + 256  # of the 1280 those in the last, partial file are made again
    assert not any((tmp_path / "home/.cache/gm_jax/unfinished").iterdir())


@pytest.mark.parametrize(
    ("images", "reference", "words"),
    [
        ("nowhere.npz", "GOOD", ["nowhere.npz does not exist", "cifar10:train"]),
        ("GOOD", "cifar10", ["cifar10 does not exist", "cifar10:train"]),
        ("GOOD", "digits:tset", ["no split 'tset'", "digits:test"]),
        ("GOOD", "digit:test", ["'digit'", "digits"]),
        ("GOOD", "RGB", ["8x8x1", "8x8x3", "one size"]),
        ("GOOD", "BIG", ["8x8x1", "9x8x1"]),
        ("ONE", "GOOD", ["holds 1 images", "at least 2"]),
        ("GOOD", "ONE", ["holds 1 images", "at least 2"]),
        ("EMPTY", "GOOD", ["empty.npz", "images"]),
        ("STATS", "GOOD", ["stats.npz", "images"]),
        ("FOLDER", "GOOD", ["pictures"]),
    ],
)
def test_what_cannot_be_judged_is_refused_before_any_work(images, reference, words, npz, tmp_path, chosen):
    (tmp_path / "pictures").mkdir()
    files = {
        "GOOD": npz("good", made(12)),
        "RGB": npz("rgb", made(12).repeat(3, axis=-1)),
        "BIG": npz("big", np.zeros((12, 9, 8, 1), np.uint8)),
        "ONE": npz("one", made(1)),
        "EMPTY": npz("empty"),
        "STATS": npz("stats", mu=np.zeros(2), sigma=np.eye(2)),
        "FOLDER": str(tmp_path / "pictures"),
    }
    with pytest.raises(InputError) as raised:
        compare.compare(files.get(images, images), files.get(reference, reference), SETTINGS)
    message = str(raised.value)
    assert "\n" not in message and [word for word in words if word not in message] == []
    assert chosen[1] == []


def test_a_folder_of_data_sets_that_nothing_reads_is_refused(npz):
    with pytest.raises(InputError, match=r"data.dir=/d is for data sets such as cifar10:train; .*a.npz and .*b.npz are files"):
        compare.compare(npz("a", made(12)), npz("b", made(12)), SETTINGS, data_dir="/d")
