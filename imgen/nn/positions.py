"""Fixed tables of positions."""

import numpy as np

from imgen.errors import UserError


def sincos_2d(grid: tuple[int, int], width: int, period: float = 10000.0) -> np.ndarray:
    """float32 [h, w, width]: sin(row f), cos(row f), sin(column f), cos(column f), a quarter each.

    f_j = period^(-4 j / width), j < width / 4; integer coordinates from 0, so that a smaller grid's table
    is the top left of a larger one's. Raises UserError for a width that has no quarter.
    (apple/ml-flextok. MAE writes the column first.)
    """
    if width % 4:
        raise UserError(f"width {width} cannot hold sin-cos positions: make it a multiple of 4")
    quarter = width // 4
    frequencies = period ** (-np.arange(quarter) / quarter)
    halves = []
    for axis, side in enumerate(grid):
        angles = np.arange(side)[:, None] * frequencies  # [side, width / 4]
        half = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
        halves.append(np.broadcast_to(np.expand_dims(half, 1 - axis), (*grid, width // 2)))
    return np.concatenate(halves, axis=-1).astype(np.float32)
