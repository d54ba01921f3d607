"""Orders in which the positions of a 2D grid are read as a sequence."""

import math
from collections.abc import Callable

import numpy as np

from imgen.errors import UserError


def row(height: int, width: int) -> np.ndarray:
    return np.arange(height * width)


def col(height: int, width: int) -> np.ndarray:
    return row(height, width).reshape(height, width).T.reshape(-1)


def zigzag(height: int, width: int) -> np.ndarray:
    """Diagonal by diagonal, up and down in turn, as JPEG reads its coefficients."""
    y, x = np.divmod(row(height, width), width)
    diagonal = y + x
    return np.lexsort((np.where(diagonal % 2, y, x), diagonal))


def hilbert(height: int, width: int) -> np.ndarray:
    """Along Hilbert's curve through the smallest square of a power of two that holds the grid; cells
    outside the grid are skipped."""
    y, x = np.divmod(row(height, width), width)
    along = np.zeros(height * width, np.int64)
    side = 2 ** max(0, math.ceil(math.log2(max(height, width))))
    half = side // 2
    while half:
        right, below = (x & half) > 0, (y & half) > 0
        along += half * half * ((3 * right) ^ below)
        # Each quadrant is the same curve, turned so that the four join.
        flip = right & ~below
        x, y = np.where(flip, side - 1 - x, x), np.where(flip, side - 1 - y, y)
        x, y = np.where(below, x, y), np.where(below, y, x)
        half //= 2
    return np.argsort(along, kind="stable")


SCANS: dict[str, Callable[[int, int], np.ndarray]] = {
    "row": row,
    "col": col,
    "zigzag": zigzag,
    "hilbert": hilbert,
}


def scan_order(name: str, grid: tuple[int, ...]) -> np.ndarray:
    """Raster indices of the positions in the order that they are read: int64 [positions].

    Raises UserError for an unknown name and for grids that have only one order.
    """
    if name not in SCANS:
        raise UserError(f"scan {name!r} is none of {', '.join(SCANS)}")
    if name == "row":
        return np.arange(math.prod(grid))
    if len(grid) != 2:
        raise UserError(f"scan {name!r} needs a grid of two axes, not {grid}: use scan 'row'")
    return SCANS[name](*grid)
