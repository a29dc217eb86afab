import numpy as np
import pytest

from gm_jax.metrics import store
from gm_jax.metrics.extractor import Features
from gm_jax.metrics.store import FeatureStore


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(store, "PART", 4)


def batch(start, n):
    x = np.arange(start, start + n, dtype=np.float32)[:, None]
    return Features(x, -x)


def test_what_was_appended_comes_back_in_order_and_leaves_no_files(tmp_path):
    features = FeatureStore(tmp_path, "a")
    for start in range(0, 11, 2):
        features.append(batch(start, 2))
    found = features.pop()
    np.testing.assert_array_equal(found.features[:, 0], np.arange(12))
    np.testing.assert_array_equal(found.logits, -found.features)
    assert not list(tmp_path.iterdir())


def test_another_process_finds_the_whole_parts_of_the_same_thing_only(tmp_path):
    first = FeatureStore(tmp_path, "a")
    for start in (0, 3, 6):
        first.append(batch(start, 3))  # a part of 6, and 3 that are lost
    again = FeatureStore(tmp_path, "a")
    assert len(again) == 6 and len(FeatureStore(tmp_path, "b")) == 0
    again.append(batch(6, 5))
    np.testing.assert_array_equal(again.pop().features[:, 0], np.arange(11))


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: b"", lambda data: data[:100] + b"x" + data[101:]])
def test_a_damaged_part_ends_the_list(tmp_path, damage):
    features = FeatureStore(tmp_path, "a")
    for start in (0, 4, 8):
        features.append(batch(start, 4))
    second = sorted(tmp_path.rglob("*.npz"))[1]
    second.write_bytes(damage(second.read_bytes()))
    assert len(FeatureStore(tmp_path, "a")) == 4
