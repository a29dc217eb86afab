"""All metrics at once, under the names of their protocols."""

import json

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics import judge as module
from gm_jax.metrics import statistics
from gm_jax.metrics.extractor import Features, from_callable
from gm_jax.metrics.frechet import frechet_distance
from gm_jax.metrics.judge import judge, metric_name, subset
from gm_jax.metrics.reference import Reference, make_reference

DIM = 6


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("fid", "inception2048", 50_000, "train"), "fid50k_train"),
        (("fid", "inception2048", 1000, "test"), "fid1k_test"),
        (("kid", "inception2048", 1000, "train"), "kid1k_train"),
        (("is", "inception2048", 50_000), "is50k"),
        (("precision", "inception2048", 10_000, "train"), "precision10k_train"),
        (("fid", "inception768", 1000, "train"), "fid768_1k_train"),
        (("density", "inception64", 1500, "train"), "density64_1500_train"),
        (("intra_fid", "inception768", 1000, "train"), "intra_fid768_1k_train"),
        (("fid", "digits_classifier", 296, "train"), "frechet_digits_classifier_296_train"),
        (("intra_fid", "dinov2", 1000, "train"), "intra_frechet_dinov2_1k_train"),
        (("is", "digits_classifier", 1000), "is_digits_classifier_1k"),
        (("fid", "inception768_cropped", 256, "train2560"), "frechet_inception768_cropped_256_train2560"),
    ],
)
def test_names_say_the_protocol(arguments, name):
    assert metric_name(*arguments) == name


@pytest.fixture(autouse=True)
def few_subsets(monkeypatch):
    monkeypatch.setattr(module, "SUBSETS", 3)


EXTRACTOR = from_callable(lambda images: images, "inception2048", "abc")


def normal(n, seed=0, dim=DIM):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def reference_of(features, labels=None, extractor=("inception2048", "abc")):
    return Reference("noise", "d1", len(features), statistics.of(features), features, labels, extractor=extractor)


def test_everything_is_measured_under_its_name():
    real, fake = normal(90), normal(40, 1)
    found = judge(Features(fake, normal(40, 2)), reference_of(real), EXTRACTOR, "train")
    metrics = ("fid", "kid", "precision", "recall", "density", "coverage")
    assert set(found) == {*(f"{metric}40_train" for metric in metrics), "is40"}
    assert found["fid40_train"] == {
        "value": pytest.approx(frechet_distance(statistics.of(fake), statistics.of(real)), rel=1e-8),
        "n": 40,
        "extractor": {"name": "inception2048", "digest": "abc"},
        "reference": {"name": "noise", "n": 90, "digest": "d1"},
    }
    assert found["kid40_train"].items() >= {"subsets": 3, "subset_size": 40}.items()
    assert "std" not in found["kid40_train"], "a subset is all of the samples"
    assert found["recall40_train"].items() >= {"k": 3, "n": 40, "reference_n": 40}.items()
    assert found["coverage40_train"]["k"] == 5
    assert "reference" not in found["is40"] and found["is40"].items() >= {"splits": 10, "order": "seeded"}.items()
    json.dumps(found, allow_nan=False)


def test_only_what_can_be_computed_is_there():
    only_statistics = reference_of(normal(90))._replace(features=None, n=None, extractor=None)
    assert set(judge(Features(normal(40, 1)), only_statistics, EXTRACTOR, "train")) == {"fid40_train"}
    few = judge(Features(normal(4, 1), normal(4, 2)), reference_of(normal(90)), EXTRACTOR, "train")
    assert set(few) == {"fid4_train", "kid4_train", "precision4_train", "recall4_train"}


def test_another_extractor_gives_other_names():
    extractor = EXTRACTOR._replace(name="inception768")
    found = judge(Features(normal(40, 1)), reference_of(normal(90), extractor=None), extractor, "test")
    assert "fid768_40_test" in found and "recall768_40_test" in found and "fid40_test" not in found


def test_a_better_model_is_told_from_a_worse_one():
    reference = reference_of(normal(400))
    good, collapsed, noisy = (
        judge(Features(x), reference, EXTRACTOR, "train") for x in (normal(200, 1), 0.1 * normal(200, 1), 4 * normal(200, 1))
    )
    for bad in (collapsed, noisy):
        assert bad["fid200_train"]["value"] > 10 * good["fid200_train"]["value"]
        assert bad["kid200_train"]["value"] > good["kid200_train"]["value"]
    assert collapsed["recall200_train"]["value"] < 0.2 < 0.7 < good["recall200_train"]["value"]
    assert collapsed["coverage200_train"]["value"] < 0.5 < 0.9 < good["coverage200_train"]["value"]
    assert noisy["precision200_train"]["value"] < 0.2 < 0.7 < good["precision200_train"]["value"]


def test_kid_says_how_many_different_subsets_it_has_and_their_spread(monkeypatch):
    monkeypatch.setattr(module, "SUBSET_SIZE", 30)
    found = judge(Features(normal(40, 1)), reference_of(normal(90)), EXTRACTOR, "train")["kid40_train"]
    assert found["std"] > 0 and (found["subsets"], found["subset_size"], found["n"]) == (3, 30, 40)
    whole = judge(Features(normal(20, 1)), reference_of(normal(20)), EXTRACTOR, "train")["kid20_train"]
    assert "std" not in whole and (whole["subsets"], whole["subset_size"]) == (1, 20)


def test_neighbours_are_counted_among_equal_numbers_at_most_so_many(monkeypatch):
    monkeypatch.setattr(module, "MOST_POINTS", 30)
    found = judge(Features(normal(80, 1)), reference_of(normal(90)), EXTRACTOR, "train")
    assert found["precision30_train"].items() >= {"n": 30, "reference_n": 30}.items()
    assert found["fid80_train"]["n"] == 80 and "precision80_train" not in found


def test_a_set_sorted_by_class_is_thinned_evenly():
    labels = np.repeat(np.arange(10), 100)
    chosen = subset(labels, 300)
    assert len(chosen) == 300 and (np.diff(chosen) >= 0).all() and np.bincount(chosen).min() > 15
    np.testing.assert_array_equal(chosen, subset(labels, 300))
    assert subset(labels, 1000) is labels
    with pytest.raises(InputError, match="n is 0"):
        subset(labels, 0)


def test_distances_within_classes():
    labels, real_labels = np.arange(40) % 2, np.arange(90) % 2
    fake, real = normal(40, 1), normal(90) + 10 * real_labels[:, None]
    swapped = judge(Features(fake + 10 * (1 - labels[:, None])), reference_of(real, real_labels), EXTRACTOR, "train", labels)
    right = judge(Features(fake + 10 * labels[:, None]), reference_of(real, real_labels), EXTRACTOR, "train", labels)
    entry = right["intra_fid40_train"]
    per_class = entry["per_class"]
    assert [(c["class"], c["n"], c["reference_n"]) for c in per_class] == [(0, 20, 45), (1, 20, 45)]
    assert entry["value"] == pytest.approx(np.mean([c["value"] for c in per_class]))
    expected = frechet_distance(statistics.of(fake[labels == 0]), statistics.of(real[real_labels == 0]))
    assert per_class[0]["value"] == pytest.approx(expected, rel=1e-8)
    assert swapped["fid40_train"]["value"] < 10 and swapped["intra_fid40_train"]["value"] > 500, "only the labels are wrong"
    json.dumps(entry, allow_nan=False)


def test_distances_within_classes_need_two_of_each_and_labels_of_both():
    fake, real, labels = normal(40, 1), normal(90), np.arange(40) % 2
    cases = [(np.arange(90) % 2, None), (None, labels), (np.arange(90) % 3, labels), (np.arange(90) % 2, np.arange(40) == 0)]
    for real_labels, fake_labels in cases:
        found = judge(Features(fake), reference_of(real, real_labels), EXTRACTOR, "train", fake_labels)
        assert not any("intra" in name for name in found)
    with pytest.raises(InputError, match="labelled 2"):
        judge(Features(fake), reference_of(real, np.arange(90) % 2), EXTRACTOR, "train", np.arange(40) % 3)


def test_what_does_not_belong_together_is_refused():
    reference = reference_of(normal(90))
    with pytest.raises(InputError, match="made by the extractor inception2048"):
        judge(Features(normal(40, 1)), reference, EXTRACTOR._replace(name="inception768"), "train")
    with pytest.raises(InputError, match="or other weights of it"):
        judge(Features(normal(40, 1)), reference, EXTRACTOR._replace(digest="xyz"), "train")
    with pytest.raises(InputError, match="dimensions"):
        judge(Features(normal(40, 1, dim=3)), reference, EXTRACTOR, "train")
    with pytest.raises(InputError, match="at least 2 images, not 1"):
        judge(Features(normal(1, 1)), reference, EXTRACTOR, "train")
    with pytest.raises(InputError, match="1 of 40 images have features that are not finite"):
        judge(Features(np.where(np.arange(40)[:, None] == 3, np.nan, normal(40, 1))), reference, EXTRACTOR, "train")


def test_logits_that_are_not_finite_and_labels_of_other_images_are_refused():
    reference, x = reference_of(normal(90)), normal(40, 1)
    with pytest.raises(InputError, match="2 of 40 images have logits that are not finite"):
        judge(Features(x, np.where(np.arange(40)[:, None] < 2, np.inf, x)), reference, EXTRACTOR, "train")
    for features, labels in ((Features(x, x[:39]), None), (Features(x), np.zeros(39, int))):
        with pytest.raises(InputError, match="39 l.* for 40 images"):
            judge(features, reference, EXTRACTOR, "train", labels)


def test_of_images_themselves_the_distance_is_zero(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 2, 2, 1), np.uint8)
    extractor = from_callable(lambda x: x.reshape(len(x), -1) / 255, "pixels", "1")
    reference = make_reference(extractor, images, "noise", cache_dir=tmp_path)
    found = judge(Features(reference.features), reference, extractor, "train")
    assert found["frechet_pixels_30_train"]["value"] < 1e-6
    assert found["precision_pixels_30_train"]["value"] == found["recall_pixels_30_train"]["value"] == 1
