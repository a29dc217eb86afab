"""Features of real images, extracted once."""

import os

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.metrics import reference, statistics
from gm_jax.metrics.extractor import Features, from_callable
from gm_jax.metrics.frechet import distance_of_samples
from gm_jax.metrics.reference import content_digest, load_statistics, make_reference

X = np.random.default_rng(0).integers(0, 256, (23, 4, 4, 1), np.uint8)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch, tmp_path):
    monkeypatch.setattr(reference, "CHUNK", 5)
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path / "cache"))


class Recorder:
    """Sums of rows as features; remembers how many images it saw, and may break down after so many calls."""

    def __init__(self, name="sums", digest="1", breaks_after=None):
        self.seen, self.calls, self.breaks_after = 0, 0, breaks_after
        self.extractor = from_callable(self, name, digest, batch_size=2)

    def __call__(self, images):
        if self.calls == self.breaks_after:
            raise KeyboardInterrupt
        self.calls, self.seen = self.calls + 1, self.seen + len(images)
        x = images.astype(np.float32)
        return Features(x.sum((2, 3)), x.mean((1, 2)))


def test_it_holds_features_logits_and_statistics_of_all_images_in_order():
    labels = np.arange(23) % 3
    found = make_reference(Recorder().extractor, X, "noise", labels)
    x = X.astype(np.float32)
    np.testing.assert_array_equal(found.features, x.sum((2, 3)))
    np.testing.assert_array_equal(found.logits, x.mean((1, 2)))
    np.testing.assert_array_equal(found.labels, labels)
    assert found.features.dtype == np.float32
    assert (found.name, found.n, found.statistics.n, found.extractor) == ("noise", 23, 23, ("sums", "1"))
    np.testing.assert_allclose(found.statistics.covariance, np.cov(found.features.T.astype(np.float64)), 1e-12)


def test_a_second_time_nothing_is_extracted():
    first = make_reference(Recorder().extractor, X, "noise")
    recorder = Recorder()
    second = make_reference(recorder.extractor, X.copy(), "another name")
    assert recorder.seen == 0 and second.name == "another name" and second.digest == first.digest
    np.testing.assert_array_equal(second.features, first.features)
    np.testing.assert_array_equal(second.statistics.covariance, first.statistics.covariance)


def test_other_images_extractors_or_weights_are_not_taken_for_the_same():
    make_reference(Recorder().extractor, X, "noise")
    changed = X.copy()
    changed[7, 0, 0] ^= 1
    for images, recorder in ((changed, Recorder()), (X[::-1], Recorder()), (X, Recorder("others")), (X, Recorder(digest="2"))):
        found = make_reference(recorder.extractor, images, "noise")
        assert recorder.seen == 23
        np.testing.assert_array_equal(found.features, images.astype(np.float32).sum((2, 3)))


def test_an_interrupted_extraction_goes_on_where_it_was():
    interrupted, progress = Recorder(breaks_after=7), []
    with pytest.raises(KeyboardInterrupt):
        make_reference(interrupted.extractor, X, "noise")
    assert interrupted.seen >= 10
    recorder = Recorder()
    found = make_reference(recorder.extractor, X, "noise", progress=lambda done, total: progress.append((done, total)))
    assert recorder.seen == 13, "two chunks of five were on disk"
    np.testing.assert_array_equal(found.features, X.astype(np.float32).sum((2, 3)))
    assert progress[0] == (12, 23) and progress[-1] == (23, 23) and progress == sorted(progress)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "replaced"])
def test_a_damaged_file_is_made_anew(tmp_path, damage):
    make_reference(Recorder().extractor, X, "noise")
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 5
    content = bytearray(files[1].read_bytes())
    content[180] ^= 255
    damaged = {"truncated": content[:100], "flipped": content, "empty": b"", "replaced": files[4].read_bytes()}
    files[1].write_bytes(bytes(damaged[damage]))
    for expected in (5, 0):
        recorder = Recorder()
        found = make_reference(recorder.extractor, X, "noise")
        assert recorder.seen == expected
        np.testing.assert_array_equal(found.features, X.astype(np.float32).sum((2, 3)))


def test_an_unusable_cache_and_a_single_image_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="GM_JAX_CACHE to another folder"):
        make_reference(Recorder().extractor, X, "noise", cache_dir=tmp_path / "file")
    with pytest.raises(InputError, match="at least 2 images, not 1"):
        make_reference(Recorder().extractor, X[:1], "noise")


def test_names_of_extractors_do_not_leave_the_cache(tmp_path):
    for folder, given in (("mine", tmp_path / "mine"), ("cache/references", None)):
        make_reference(Recorder("../dino/v2").extractor, X, "noise", cache_dir=given)
        assert len(os.listdir(tmp_path / folder)) == 1
    assert sorted(os.listdir(tmp_path)) == ["cache", "mine"] and os.listdir(tmp_path / "cache") == ["references"]


def test_without_a_digest_features_are_not_kept(tmp_path):
    recorder = Recorder(digest="")
    for seen in (23, 46):
        found = make_reference(recorder.extractor, X, "noise")
        np.testing.assert_array_equal(found.features, X.astype(np.float32).sum((2, 3)))
        assert recorder.seen == seen
    assert recorder.extractor.digest != Recorder(digest="").extractor.digest
    make_reference(recorder.extractor._replace(digest=""), X, "noise")
    assert not list(tmp_path.rglob("*.npz"))


def test_features_that_are_not_finite_are_refused_and_not_kept(tmp_path):
    broken = Recorder()
    broken.extractor = from_callable(lambda x: np.where(x[:, :1, 0, 0] == X[7, 0, 0, 0], np.nan, 1.0), "sums", "1")
    bad = int((X[:, 0, 0, 0] == X[7, 0, 0, 0]).sum())
    with pytest.raises(InputError, match=f"{bad} of 23 images have features that are not finite"):
        make_reference(broken.extractor, X, "noise")
    kept = sorted(path.name for path in tmp_path.rglob("*.npz"))
    assert kept and "000000005.npz" not in kept
    for path in tmp_path.rglob("*.npz"):  # as earlier versions kept them, or those of other forms
        np.savez(path, features=np.full((5, 4), np.nan) if "10" in path.name else np.ones((5, 4, 1, 1)))
    recorder = Recorder()
    np.testing.assert_array_equal(make_reference(recorder.extractor, X, "noise").features, X.astype(np.float32).sum((2, 3)))
    assert recorder.seen == 23


def test_the_content_digest_sees_shape_and_levels():
    assert content_digest(X) == content_digest(np.asfortranarray(X))
    others = [X[:, :, ::-1], X.reshape(23, 2, 8, 1), X[:-1]]
    assert len({content_digest(x) for x in (X, *others)}) == 4


def test_statistics_of_other_tools_serve_the_distance(tmp_path):
    x = np.random.default_rng(1).standard_normal((30, 3))
    known = statistics.of(x)
    np.savez(tmp_path / "stats.npz", mu=known.mean, sigma=known.covariance)
    loaded = load_statistics(tmp_path / "stats.npz")
    assert loaded.features is None and loaded.n is None and loaded.name == "stats"
    assert distance_of_samples(x + 1, loaded.statistics) == pytest.approx(3, rel=1e-6)
    for broken in ({"mu": known.mean}, {"mu": known.mean, "sigma": np.eye(4)}, {"mu": known.mean * np.nan, "sigma": np.eye(3)}):
        np.savez(tmp_path / "broken.npz", **broken)
        with pytest.raises(InputError, match="as pytorch-fid writes"):
            load_statistics(tmp_path / "broken.npz")
