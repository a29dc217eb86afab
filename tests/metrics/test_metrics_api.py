"""The public functions: images in, numbers out."""

import functools
import inspect
import subprocess
import sys

import numpy as np
import pytest

from gm_jax import images as image_files
from gm_jax import metrics
from gm_jax.errors import InputError
from gm_jax.metrics import statistics
from gm_jax.metrics.extractor import Features
from gm_jax.metrics.frechet import frechet_distance

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 200, (40, 4, 4, 1), np.uint8)
FAKE = RNG.integers(50, 256, (30, 4, 4, 1), np.uint8)


def corners(images):
    return np.asarray(images, np.float32)[:, ::3, ::3, 0].reshape(len(images), 4) / 255


CORNERS = metrics.from_callable(corners, "corners", "1")
INCEPTION = CORNERS._replace(name="inception2048")
CLASSIFIER = metrics.from_callable(lambda x: Features(corners(x), 5 * corners(x)), "classifier", "1")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path / "cache"))


def expected_distance():
    return frechet_distance(*(statistics.of(corners(x)) for x in (FAKE, REAL)))


def test_arrays_folders_archives_and_references_give_the_same(tmp_path):
    for i, image in enumerate(FAKE):
        image_files.save_png(tmp_path / "fake" / f"{i:03d}.png", image, scale=1)
    np.savez(tmp_path / "real.npz", images=REAL)
    moments = statistics.of(corners(REAL))
    np.savez(tmp_path / "stats.npz", mu=moments.mean, sigma=moments.covariance)
    references = (REAL, tmp_path / "real.npz", str(tmp_path / "stats.npz"), metrics.make_reference(CORNERS, REAL, "real"))
    for images in (FAKE, tmp_path / "fake"):
        for real in references:
            assert metrics.frechet_distance(images, real, CORNERS) == pytest.approx(expected_distance(), rel=1e-6)


def test_every_metric_by_its_own_function():
    assert metrics.fid(FAKE, REAL, INCEPTION) == pytest.approx(expected_distance(), rel=1e-6)
    real, fake = corners(REAL), corners(FAKE)
    assert metrics.kid(FAKE, REAL, CORNERS, subsets=3) == metrics._kid.kernel_distance(real, fake, subsets=3)
    precision, recall = metrics.precision_recall(FAKE, REAL, CORNERS)
    density, coverage = metrics.density_coverage(FAKE, REAL, CORNERS)
    assert 0 < min(precision, recall, density, coverage) < 1
    mean, std = metrics.inception_score(FAKE, CLASSIFIER)
    assert 1 < mean < 4 and std > 0


def test_of_a_set_and_itself():
    assert metrics.frechet_distance(REAL, REAL, CORNERS) == pytest.approx(0, abs=1e-9)
    assert metrics.precision_recall(REAL, REAL, CORNERS) == (1, 1)


def test_functions_of_one_text_are_told_apart():
    """Closures, partials, methods and objects of one class: what is cached for one must not serve another."""

    def scaled(images, k):
        return corners(images) * k

    class Net:
        def __init__(self, k):
            self.k = k

        def __call__(self, images):
            return corners(images) * self.k

    def typed_at_a_prompt(k):
        return eval("lambda x: corners(x) * k", {"corners": corners, "k": k})

    kinds = (lambda k: lambda x: corners(x) * k, lambda k: functools.partial(scaled, k=k), Net, lambda k: Net(k).__call__)
    for make in (*kinds, typed_at_a_prompt):
        for k in (1.0, 10.0):
            found = metrics.frechet_distance(FAKE, REAL, metrics.from_callable(make(k), "mine"))
            assert found == pytest.approx(k**2 * expected_distance(), rel=1e-5)


def test_a_reference_of_another_function_is_refused():
    net = metrics.from_callable(corners, "mine")
    made = metrics.make_reference(net, REAL, "real")
    assert metrics.frechet_distance(FAKE, made, net) == pytest.approx(expected_distance(), rel=1e-6)
    with pytest.raises(InputError, match="without a digest, each call of from_callable makes another"):
        metrics.frechet_distance(FAKE, made, metrics.from_callable(corners, "mine"))


def test_the_order_of_the_images_does_not_matter_to_the_inception_score():
    images = np.concatenate([FAKE] * 10)
    by_class = images[np.argsort(corners(images).argmax(1), kind="stable")]
    found, again = (metrics.inception_score(x, CLASSIFIER, splits=3)[0] for x in (images, by_class))
    assert found == pytest.approx(again, rel=0.03)


def test_kid_has_a_spread_where_both_sets_are_larger_than_a_subset():
    assert metrics.kid(FAKE, REAL, CORNERS)[1] is None
    assert metrics.kid(FAKE, REAL, CORNERS, subset_size=20)[1] > 0


def test_fid_is_said_of_inception_only():
    with pytest.raises(InputError, match="not of corners; .* call frechet_distance"):
        metrics.fid(FAKE, REAL, CORNERS)


def test_refusals_say_what_to_do(tmp_path):
    np.savez(tmp_path / "stats.npz", mu=np.zeros(4), sigma=np.eye(4))
    for metric in (metrics.kid, metrics.precision_recall, metrics.density_coverage):
        with pytest.raises(InputError, match="give the reference images"):
            metric(FAKE, tmp_path / "stats.npz", CORNERS)
    with pytest.raises(InputError, match="needs logits, which corners does not give"):
        metrics.inception_score(FAKE, CORNERS)
    made = metrics.make_reference(CORNERS, REAL, "real")
    with pytest.raises(InputError, match="take one extractor for both"):
        metrics.frechet_distance(FAKE, made, CORNERS._replace(digest="2"))
    with pytest.raises(InputError, match="no folder or file"):
        metrics.frechet_distance(FAKE, tmp_path / "none", CORNERS)


def test_without_weights_there_is_no_default_extractor(monkeypatch, tmp_path):
    from gm_jax.metrics import inception

    monkeypatch.setattr(inception, "find_weights", lambda path="": None)
    with pytest.raises(InputError, match="GM_JAX_INCEPTION"):
        metrics.fid(FAKE, REAL)


def test_the_default_extractor_is_the_inception_that_is_found(monkeypatch, tmp_path):
    from gm_jax.metrics import inception

    monkeypatch.setattr(inception, "find_weights", lambda path="": tmp_path / "weights.pth")
    monkeypatch.setattr(inception, "extractor", lambda weights: INCEPTION)
    assert metrics.fid(FAKE, REAL) == pytest.approx(expected_distance(), rel=1e-6)


def test_all_public_names_exist_and_stay_functions():
    for name in ("fid", "frechet_distance", "kid", "inception_score", "precision_recall", "density_coverage"):
        assert name in metrics.__all__ and inspect.isfunction(getattr(metrics, name))
    assert all(hasattr(metrics, name) for name in metrics.__all__)


def test_importing_the_metrics_loads_neither_networks_nor_models():
    code = "import sys, gm_jax.metrics; print(*(m for m in ('flax', 'optax', 'sklearn', 'orbax') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
