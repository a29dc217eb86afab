"""Reads grid pictures back."""

import pathlib

import numpy as np
from PIL import Image


def tiles_of(path: pathlib.Path, rows: int, columns: int) -> np.ndarray:
    """The tiles of a grid picture of 4x4 tiles, read back pixel by pixel: [rows, columns, 4, 4]."""
    x = np.asarray(Image.open(path))
    tile = 32  # magnified 8 times, 2 pixels between; then the whole
    factor = x.shape[0] // (2 + rows * (tile + 2))
    assert x.shape == ((2 + rows * (tile + 2)) * factor, (2 + columns * (tile + 2)) * factor)
    x = x[::factor, ::factor]
    cut = [[x[2 + r * 34 :, 2 + c * 34 :][:tile:8, :tile:8] for c in range(columns)] for r in range(rows)]
    return np.array(cut)
