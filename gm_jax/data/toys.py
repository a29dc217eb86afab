"""2-D toy distributions with exact densities: `ring`, `grid25`, `moons`, `checkerboard`, `swissroll`.

Points [n, 2] are used as they are, neither scaled nor dequantized, so that a likelihood in nats compares with `log_density`.
The coordinates have standard deviations of about 0.5 to 0.8, the scale of images in [-1, 1].

But for the checkerboard each toy is a mixture of isotropic Gaussians of one width: of a few, or of those along a curve. A curve
c(u) with u uniform on [0, 1] and noise has the density  p(x) = int_0^1 N(x; c(u), std^2 I) du. A Gauss-Legendre rule turns this
into a mixture of NODES Gaussians, less than one std from one to the next, which is right to 1e-9 where the density is not tiny.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int32

from gm_jax.data.dataset import Dataset
from gm_jax.errors import InputError

TRAIN, TEST = 20_000, 5_000  # points of the two splits
TRAIN_SEED, TEST_SEED = 0, 1
BLOCK = 4096  # points whose distances to all components are held at a time
NODES = 400  # of the quadrature along a curve

Points = Float64[np.ndarray, "n 2"]
Curve = Callable[[np.ndarray], np.ndarray]  # u [n] in [0, 1] -> points [n, 2]

_nodes, _weights = np.polynomial.legendre.leggauss(NODES)  # on [-1, 1]
POSITIONS, WEIGHTS = (_nodes + 1) / 2, _weights / 2


class Toy(NamedTuple):
    """A distribution on the plane.

    `draw(rng, n)` gives n independent points and, where there are classes, the class that each was drawn from. `log_density` is
    exact, in nats, -inf outside the support. The square [-box, box]^2, for pictures and histograms, lacks less than 1e-3 of the
    mass.
    """

    draw: Callable[[np.random.Generator, int], tuple[Points, Int32[np.ndarray, " n"] | None]]
    log_density: Callable[[Float[np.ndarray, "n 2"]], Float64[np.ndarray, " n"]]
    box: float
    class_names: tuple[str, ...] | None = None
    modes: Float64[np.ndarray, "k 2"] | None = None  # the centres, for mixtures of a few Gaussians alone
    std: float | None = None  # of each coordinate of one such component


def load(name: str) -> Dataset:
    """The toy as a data set: points float32 [20000, 2] and [5000, 2], labels int32 or None, the same in every call.

    Raises InputError for an unknown name.
    """
    if name not in TOYS:
        raise InputError(f"there is no 2-D toy {name!r}; known are {', '.join(TOYS)}")
    toy = TOYS[name]
    (x_train, y_train), (x_test, y_test) = (
        toy.draw(np.random.default_rng(seed), n) for seed, n in ((TRAIN_SEED, TRAIN), (TEST_SEED, TEST))
    )
    return Dataset(name, x_train.astype(np.float32), y_train, x_test.astype(np.float32), y_test, toy.class_names)


def ring() -> Toy:
    """8 Gaussians of std 0.05 evenly on the unit circle, equally likely.

    The usual ring (Metz et al. 2017, unrolled GANs, section 3.1 and appendix A) has radius 2 and std 0.02. Against the radius
    these modes are five times as wide: still 15 std from one to the next, yet within reach of models with an exact likelihood.
    """
    angles = np.arange(8) * np.pi / 4
    centres = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _mixture(centres, 0.05, box=1.25, class_names=tuple(f"{45 * i} degrees" for i in range(8)))


def grid25() -> Toy:
    """25 Gaussians of std 0.025 on the grid {-1, -0.5, 0, 0.5, 1}^2, equally likely.

    The usual grid (of Srivastava et al. 2017, VEEGAN, section 4.1) has spacing 2 and std 0.05; against the spacing these modes
    are twice as wide.
    """
    ticks = (-1.0, -0.5, 0.0, 0.5, 1.0)
    centres = np.array([(x, y) for x in ticks for y in ticks])
    return _mixture(centres, 0.025, box=1.25, class_names=tuple(f"({x:g}, {y:g})" for x, y in centres))


def moons() -> Toy:
    """Two interleaved half circles of radius 0.95, equally likely, with noise of std 0.08, centred.

    scikit-learn's `make_moons` at noise 0.084, moved by (-0.5, -0.25) and scaled by 0.95.
    """

    def upper(u: np.ndarray) -> np.ndarray:
        return 0.95 * np.stack([np.cos(np.pi * u) - 0.5, np.sin(np.pi * u) - 0.25], axis=1)

    return _curves([upper, lambda u: -upper(u)], 0.08, box=1.75, class_names=("upper", "lower"))


def swissroll() -> Toy:
    """The spiral t (cos t, sin t) / 12 for t uniform between 1.5 pi and 4.5 pi, with noise of std 0.04.

    scikit-learn's `make_swiss_roll` at noise 0.48, without its second coordinate, scaled by 1/12. Arms are 0.52 apart.
    """

    def spiral(u: np.ndarray) -> np.ndarray:
        t = np.pi * (1.5 + 3 * u)
        return np.stack([t * np.cos(t), t * np.sin(t)], axis=1) / 12

    return _curves([spiral], 0.04, box=1.4)


def checkerboard() -> Toy:
    """Uniform on 8 of the 4x4 cells of [-1, 1]^2: the black squares of a chessboard that is black in the corner (1, 1).

    The density is 1/2 on these and 0 elsewhere. A cell is closed at its lower and left sides, open at the others.
    """

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, None]:
        column = rng.integers(4, size=n)
        row = 2 * rng.integers(2, size=n) + column % 2
        return (np.stack([column, row], axis=1) + rng.random((n, 2))) / 2 - 1, None

    def log_density(x: np.ndarray) -> np.ndarray:
        x = np.asarray(x, np.float64)
        inside = ((x >= -1) & (x < 1)).all(1) & (np.floor(2 * x).sum(1) % 2 == 0)
        return np.where(inside, np.log(0.5), -np.inf)

    return Toy(draw, log_density, box=4 / 3)  # a histogram of 8, 16, 32 ... bins then has edges where the cells have


def _mixture(centres: np.ndarray, std: float, box: float, class_names: tuple[str, ...]) -> Toy:
    """Equally likely Gaussians, one a class."""
    weights = np.full(len(centres), 1 / len(centres))

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(len(centres), size=n, dtype=np.int32)
        return centres[labels] + std * rng.standard_normal((n, 2)), labels

    return Toy(draw, lambda x: _log_density(x, centres, weights, std), box, class_names, centres, std)


def _curves(curves: list[Curve], std: float, box: float, class_names: tuple[str, ...] | None = None) -> Toy:
    """Gaussian noise around c(u), u uniform, for one of equally likely curves c; each is a class, if they have names."""
    centres = np.concatenate([curve(POSITIONS) for curve in curves])
    weights = np.tile(WEIGHTS / len(curves), len(curves))

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray | None]:
        labels = rng.integers(len(curves), size=n, dtype=np.int32)
        u = rng.random(n)
        on_curve = np.stack([curve(u) for curve in curves])[labels, np.arange(n)]
        return on_curve + std * rng.standard_normal((n, 2)), labels if class_names else None

    return Toy(draw, lambda x: _log_density(x, centres, weights, std), box, class_names)


def _log_density(x: np.ndarray, centres: np.ndarray, weights: np.ndarray, std: float) -> np.ndarray:
    """log sum_j weights_j N(x; centres_j, std^2 I) for each of the points x [n, 2]: [n].

    |x - c|^2 is multiplied out: one matrix product a block. Its |x|^2, the same for all components, comes out of the sum.
    """
    x, precision = np.asarray(x, np.float64), std**-2
    bias = np.log(weights) - 0.5 * precision * (centres**2).sum(1)
    blocks = [np.zeros(0)]
    for start in range(0, len(x), BLOCK):
        logits = x[start : start + BLOCK] @ (precision * centres.T) + bias
        largest = logits.max(1)
        blocks.append(largest + np.log(np.exp(logits - largest[:, None]).sum(1)))
    return np.concatenate(blocks) - 0.5 * precision * (x**2).sum(1) + np.log(precision / (2 * np.pi))


TOYS = {toy.__name__: toy() for toy in (ring, grid25, moons, checkerboard, swissroll)}
