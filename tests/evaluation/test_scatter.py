"""Pictures of points and of densities, pixel by pixel."""

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.evaluation.scatter import PALETTE, density_picture, scatter

SIZE = 64


def at(row, column, box=2.0):
    """The point at the centre of a pixel."""
    return np.array([[(column + 0.5) / SIZE * 2 - 1, 1 - (row + 0.5) / SIZE * 2]]) * box


def dark(picture):
    """Where something is drawn."""
    return (picture < 255).any(-1)


@pytest.mark.parametrize(("row", "column"), [(10, 20), (40, 5), (50, 60)])
def test_a_point_is_a_small_round_dot_at_its_pixel_with_y_up(row, column):
    picture = scatter(at(row, column), box=2, size=SIZE)
    assert picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8
    inked = np.argwhere(dark(picture))
    assert inked.mean(0).tolist() == [row, column] and np.abs(inked - [row, column]).max() == 1
    dot = picture[row - 1 : row + 2, column - 1 : column + 2].astype(int)
    assert (dot == dot[::-1]).all() and (dot == dot[:, ::-1]).all() and (dot == dot.transpose(1, 0, 2)).all()
    assert dot[1, 1].sum() < dot[0, 0].sum() < 3 * 255, "soft"
    moved = scatter(at(row, column) + [4 / SIZE / 2, 0], box=2, size=SIZE)[row].astype(int)  # by half a pixel to the right
    assert (moved[column] == moved[column + 1]).all() and (moved[column + 2] < 255).any()


def test_up_is_up():
    picture = scatter(np.array([[0.0, 1.9]]), box=2, size=SIZE)
    assert dark(picture)[:8].any() and not dark(picture)[8:].any()


def test_outside_is_left_out_and_an_edge_does_not_wrap():
    outside = np.array([[2.01, 0], [0, -2.01], [-50, 50], [np.nan, 0], [np.inf, 0], [-np.inf, np.nan]])
    assert not dark(scatter(outside, box=2, size=SIZE)).any()
    assert not dark(scatter(np.zeros((0, 2)), box=2, size=SIZE)).any()
    corners = dark(scatter(np.array([[2.0, 2.0], [-2.0, 0.0]]), box=2, size=SIZE))
    assert corners[0, -1] and corners[SIZE // 2, 0]
    corners[:3, -3:] = corners[SIZE // 2 - 3 : SIZE // 2 + 3, :3] = False
    assert not corners.any()


def test_labels_colour_and_the_palette_is_used_again():
    x = np.concatenate([at(10, 10), at(30, 30), at(50, 50)])
    picture = scatter(np.repeat(x, 4, axis=0), box=2, size=SIZE, labels=np.repeat([0, 1, 8], 4))
    first, second, ninth = (picture[i, i].astype(int) for i in (10, 30, 50))
    assert (first == ninth).all() and first.argmax() == PALETTE[0].argmax() == 2 and second.argmax() == PALETTE[1].argmax() == 0
    assert (first == scatter(x, box=2, size=SIZE)[10, 10]).sum() < 3, "four dots are darker than one"
    mixed = scatter(at(10, 10).repeat(2, 0), box=2, size=SIZE, labels=np.array([0, 1]))
    assert (mixed == scatter(at(10, 10).repeat(2, 0), box=2, size=SIZE, labels=np.array([1, 0]))).all(), "no order"


def test_more_dots_are_always_darker():
    shades = [scatter(at(9, 9).repeat(n, 0), box=2, size=SIZE)[9, 9].astype(int).sum() for n in (0, 1, 2, 4, 16, 64)]
    assert shades[0] == 3 * 255 and (np.diff(shades) < 0).all() and shades[-1] > 0


def test_the_picture_of_a_density():
    def log_density(x):  # a blob up on the left; a constant is missing
        return 700 - ((x - [-1, 1]) ** 2).sum(1) / (2 * 0.3**2)

    picture = density_picture(log_density, box=2, size=SIZE).astype(int).sum(-1)
    row, column = np.unravel_index(picture.argmin(), picture.shape)
    assert {row, column} <= {SIZE // 4 - 1, SIZE // 4}
    assert (np.diff(picture[row, column:]) >= 0).all() and picture[-1, -1] == 3 * 255
    half = density_picture(lambda x: np.where(x[:, 1] > 0, 0.0, -np.inf), box=2, size=SIZE)
    assert dark(half)[: SIZE // 2].all() and not dark(half)[SIZE // 2 :].any()
    assert not dark(density_picture(lambda x: np.full(len(x), -np.inf), box=2, size=SIZE)).any()


def test_bad_input_is_refused():
    with pytest.raises(InputError, match=r"points \[n, 2\], not \[4, 3\]"):
        scatter(np.zeros((4, 3)), box=1)
    for labels in (np.zeros(3, int), np.zeros(4)):
        with pytest.raises(InputError, match="labels of 4 points"):
            scatter(np.zeros((4, 2)), box=1, labels=labels)
