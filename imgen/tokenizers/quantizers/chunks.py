"""Many rows a piece at a time, so that a tensor of rows x codes is never built whole.

Pieces interleave: row i of N goes to piece i mod P. Where the rows are split over devices, every piece
then has equally many rows of every device, and no row moves. Limits are bytes on one device.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from imgen.parallel.constrain import LOGICAL_AXES

MAX_BYTES = 2**25  # with what a softmax and its gradient keep, a training step stays under 256 MiB


def rows_per_device(rows: int) -> int:
    """Counts how many rows of a batch a device holds under the mesh in use, which splits them by the batch;
    all of them without a mesh, or where they don't come out even."""
    sizes = jax.sharding.get_abstract_mesh().shape
    shards = math.prod(sizes.get(axis, 1) for axis in LOGICAL_AXES["batch"])
    return rows if rows % shards else rows // shards


def map_rows(
    function: Callable, rows: jax.Array, row_bytes: int, max_bytes: int = MAX_BYTES
) -> Any:
    """Computes `function(rows)`, which must treat each row on its own: [N, D] -> a tree of arrays [N, ...].

    row_bytes: of the largest tensor that the function builds, for one row; max_bytes: of that tensor on
        one device. It is computed again for the gradient.
    """
    pieces = _cut(rows, row_bytes, max_bytes)
    if len(pieces) == 1:
        return function(rows)
    found = jax.lax.map(jax.checkpoint(function), pieces)  # [P, N / P, ...]
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(len(rows), *x.shape[2:]), found)


def sum_rows(
    function: Callable, rows: jax.Array, row_bytes: int, max_bytes: int = MAX_BYTES
) -> Any:
    """Computes `function(rows)`, which must be a sum over rows: [N, D] -> a tree of arrays. As `map_rows`."""
    pieces = _cut(rows, row_bytes, max_bytes)
    if len(pieces) == 1:
        return function(rows)
    like = jax.eval_shape(function, pieces[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)

    def step(total: Any, piece: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, jax.checkpoint(function)(piece)), None

    return jax.lax.scan(step, zeros, pieces)[0]


def _cut(rows: jax.Array, row_bytes: int, max_bytes: int) -> jax.Array:
    """Cuts [N, D] into [P, N / P, D] with the fewest pieces that are equal and small enough."""
    own = rows_per_device(len(rows))
    needed = max(1, -(-own * row_bytes // max_bytes))
    count = next(p for p in range(min(needed, own), own + 1) if own % p == 0)
    return rows.reshape(len(rows) // count, count, *rows.shape[1:]).swapaxes(0, 1)
