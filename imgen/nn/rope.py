"""Rotary positions on grids of any dimension (LlamaGen, `autoregressive/models/gpt.py`).

The hd/2 rotated pairs are divided evenly among the grid's axes, slowest axis first: for images the
first half of the pairs carries the row, the second half the column. Pair j rotates the ADJACENT
components (2j, 2j + 1).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError

NullRow = Literal["zero", "identity"]


def rope_angles(grid: tuple[int, ...], head_dim: int, base: float = 10000.0) -> np.ndarray:
    """Angles [positions, head_dim / 2] of every grid cell in raster order; integer coordinates."""
    cells = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1)
    return rotary_angles(cells.reshape(-1, len(grid)), head_dim, base)


def rotary_angles(coordinates: np.ndarray, head_dim: int, base: float = 10000.0) -> np.ndarray:
    """Angles [T, head_dim / 2] of places [T, axes] anywhere in a grid."""
    axes = coordinates.shape[1]
    if head_dim % (2 * axes):
        raise UserError(
            f"head width {head_dim} cannot rotate {axes} grid axes: "
            f"it must be a multiple of {2 * axes} (width / heads)"
        )
    pairs = head_dim // 2 // axes
    frequencies = base ** (-np.arange(pairs) / pairs)
    return (coordinates[:, :, None] * frequencies).reshape(len(coordinates), axes * pairs)


def rope_rows(angles: np.ndarray, rows: np.ndarray, null: NullRow) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin (float32, [slots, head_dim / 2]) of the table rows of some slots; row -1: no position.

    `null="zero"` gives such slots cos = sin = 0, which makes their queries and keys vanish. That is what
    LlamaGen, NAR and PAR were trained with for class, caption and learned slots; it is not "no rotation",
    which is `null="identity"`.
    """
    has_position = (rows >= 0)[:, None]
    picked = angles[np.maximum(rows, 0)]
    cos = np.where(has_position, np.cos(picked), 1.0 if null == "identity" else 0.0)
    sin = np.where(has_position, np.sin(picked), 0.0)
    return cos.astype(np.float32), sin.astype(np.float32)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates [B, T, N, H] by cos, sin [T, H / 2] or [B, T, H / 2], in float32; the result has x's type."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    cos, sin = cos[..., None, :], sin[..., None, :]
    rotated = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return rotated.reshape(*rotated.shape[:-2], x.shape[-1]).astype(x.dtype)
