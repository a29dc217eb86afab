"""The digest of a data set's content."""

import numpy as np
import pytest

from gm_jax.data.dataset import Dataset
from gm_jax.data.digest import content_digest
from gm_jax.data.sources import load
from tests.data.support import random_images

DATA = Dataset(
    "mine",
    random_images(6, 5, 4, 3),
    np.array([0, 1, 2, 0, 1, 2], np.int32),
    random_images(2, 5, 4, 3, seed=1),
    np.array([2, 0], np.int32),
    ("a", "b", "c"),
)


def changed(x, *index):
    x = x.copy()
    x[index] ^= 1
    return x


@pytest.mark.parametrize(
    "change",
    [
        {"x_train": changed(DATA.x_train, 5, 4, 3, 2)},
        {"x_test": changed(DATA.x_test, 0, 0, 0, 0)},
        {"x_train": DATA.x_train[::-1]},
        {"x_train": DATA.x_train.reshape(6, 4, 5, 3)},
        {"y_train": changed(DATA.y_train, 0)},
        {"y_test": changed(DATA.y_test, 1)},
        {"class_names": ("a", "b", "d")},
        {"class_names": ("a", "c", "b")},
        {"class_names": ("a,b", "c")},
        {"y_train": None, "y_test": None, "class_names": None},
        {"x_train": np.concatenate([DATA.x_train, DATA.x_test[:1]]), "x_test": DATA.x_test[1:]},
        {"x_train": DATA.x_train.astype(np.float32)},
    ],
    ids=lambda change: "+".join(change),
)
def test_every_part_of_the_content_counts(change):
    assert content_digest(DATA._replace(**change)) != content_digest(DATA)


def test_neither_the_name_nor_the_order_in_memory_counts():
    other = DATA._replace(name="other", x_train=np.asfortranarray(DATA.x_train), y_test=DATA.y_test.astype(">i4"))
    assert content_digest(other) == content_digest(DATA)
    assert content_digest(DATA) == "8b65f365724828ba1aa65424f90bc00e082b7055f0f2ec9cb73c8c25a60f5cf9"


def test_data_that_moved_are_the_same(tmp_path):
    for folder, stem in (("here", "a"), ("there", "b")):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / f"{stem}.npz", x_train=DATA.x_train, x_test=DATA.x_test)
    here, there = (load(f"arrays:{tmp_path / path}") for path in ("here/a.npz", "there/b.npz"))
    assert here.name != there.name and content_digest(here) == content_digest(there)


def test_points_have_one_too():
    assert content_digest(load("ring")) != content_digest(load("moons"))
