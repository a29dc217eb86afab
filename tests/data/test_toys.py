"""The 2-D toys: exact densities, draws that follow them, scales, splits."""

import numpy as np
import pytest

from gm_jax.data import toys
from gm_jax.data.toys import TOYS, load
from gm_jax.errors import InputError
from gm_jax.metrics.points import cell_masses, expected_distance, histogram_distance

ALL = sorted(TOYS)
CLASSES = {"ring": 8, "grid25": 25, "moons": 2, "checkerboard": None, "swissroll": None}


def square(box: float, n: int = 384) -> tuple[np.ndarray, float]:
    """The midpoints of n x n cells of [-box, box]^2, and the area of one."""
    ticks = box * ((2 * np.arange(n) + 1) / n - 1)
    return np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(-1, 2), (2 * box / n) ** 2


@pytest.mark.parametrize("name", ALL)
def test_a_density_integrates_to_one_and_its_draws_have_its_entropy(name):
    toy = TOYS[name]
    points, area = square(1.5 * toy.box)
    log_p = toy.log_density(points)
    p = np.exp(log_p)
    assert p.sum() * area == pytest.approx(1, abs=1e-3)
    assert p[(np.abs(points) <= toy.box).all(1)].sum() * area > 1 - 1e-3, "the box holds all but 1e-3"
    entropy = -(p * np.where(p > 0, log_p, 0)).sum() * area
    drawn = toy.log_density(toy.draw(np.random.default_rng(3), 20_000)[0])
    assert drawn.mean() == pytest.approx(-entropy, abs=4 * drawn.std() / np.sqrt(len(drawn)) + 1e-6)


@pytest.mark.parametrize("name", ALL)
def test_draws_fall_into_cells_as_the_density_says(name):
    toy, n = TOYS[name], 5000
    masses = cell_masses(toy.log_density, toy.box, bins=32)
    draws = [toy.draw(np.random.default_rng(seed), n)[0] for seed in range(20)]
    distance, floor = np.mean([histogram_distance(x, masses, toy.box) for x in draws]), expected_distance(masses, n)
    assert distance == pytest.approx(floor, rel=0.05)
    assert histogram_distance(draws[0] + 0.02, masses, toy.box) > 1.2 * floor, "it sees a small shift"


@pytest.mark.parametrize(("name", "std"), [("moons", 0.08), ("swissroll", 0.04)])
def test_the_quadrature_along_a_curve_agrees_with_a_fine_one(name, std, monkeypatch):
    x, _ = TOYS[name].draw(np.random.default_rng(5), 500)
    x = x + np.random.default_rng(6).normal(scale=std, size=x.shape)  # also beside the curve
    found = TOYS[name].log_density(x)
    nodes, weights = np.polynomial.legendre.leggauss(1000)
    monkeypatch.setattr(toys, "POSITIONS", (nodes + 1) / 2)
    monkeypatch.setattr(toys, "WEIGHTS", weights / 2)
    np.testing.assert_allclose(found, getattr(toys, name)().log_density(x), rtol=0, atol=1e-6)


def test_densities_by_hand(monkeypatch):
    ring = TOYS["ring"].log_density(np.array([[1.0, 0.0], [1.1, 0.0]]))
    np.testing.assert_allclose(ring, np.log(1 / 8 / (2 * np.pi * 0.05**2)) - np.array([0, 2]), rtol=1e-9)
    board = TOYS["checkerboard"].log_density(
        np.array([[0.9, 0.9], [0.9, 0.4], [-0.1, -0.1], [0.1, -0.1], [1.1, 1.1], [-1.1, 0.9]])
    )
    assert board.tolist() == [np.log(0.5), -np.inf, np.log(0.5), -np.inf, -np.inf, -np.inf]
    points, _ = square(1, 10)
    whole = TOYS["moons"].log_density(points)
    monkeypatch.setattr(toys, "BLOCK", 7)
    np.testing.assert_allclose(TOYS["moons"].log_density(points), whole, rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_data_sets_have_their_form_scale_and_labels(name):
    data, toy = load(name), TOYS[name]
    assert (data.name, data.x_train.shape, data.x_test.shape) == (name, (20_000, 2), (5_000, 2))
    assert data.x_train.dtype == data.x_test.dtype == np.float32
    assert np.isfinite(toy.log_density(data.x_train)).all() and np.isfinite(toy.log_density(data.x_test)).all()
    assert ((data.x_train.std(0) > 0.46) & (data.x_train.std(0) < 0.84)).all()
    assert data.num_classes == CLASSES[name]
    if CLASSES[name] is None:
        assert data.y_train is None and data.y_test is None
        return
    assert data.y_train.dtype == data.y_test.dtype == np.int32
    counts = np.bincount(data.y_train)
    assert len(counts) == CLASSES[name] and (np.abs(counts / counts.mean() - 1) < 0.15).all()
    means = np.array([data.x_train[data.y_train == label].mean(0) for label in range(len(counts))])
    expected = toy.modes if toy.modes is not None else 0.95 * np.array([[-0.5, 2 / np.pi - 0.25], [0.5, 0.25 - 2 / np.pi]])
    np.testing.assert_allclose(means, expected, atol=0.04)


@pytest.mark.parametrize("name", ALL)
def test_splits_are_disjoint_and_the_same_in_every_call(name):
    first, second = load(name), load(name)
    assert all(np.array_equal(a, b) for a, b in zip(first[1:5], second[1:5], strict=True))
    assert not {tuple(x) for x in first.x_train} & {tuple(x) for x in first.x_test}


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="no 2-D toy 'rings'; known are ring, grid25"):
        load("rings")
