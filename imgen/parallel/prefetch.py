"""Host batches -> global device arrays, one ahead of the step that uses them."""

import contextlib
import math
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding

from imgen.errors import UserError


def to_global(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's examples [B/processes, ...] -> arrays of the global batch [B, ...].

    Raises UserError unless the mesh splits the batch evenly over the processes: with fewer shards
    than processes, unlike data would pass for copies of the same examples.
    """
    spread = [axis for axis in sharding.spec[0] if axis in sharding.mesh.shape]
    shards = math.prod(sharding.mesh.shape[axis] for axis in spread)
    if shards % jax.process_count():
        raise UserError(
            f"data x fsdp = {shards} shards cannot be split over {jax.process_count()} processes: "
            "make the mesh's tensor axis smaller"
        )

    def place(rows: np.ndarray) -> jax.Array:
        shape = (len(rows) * jax.process_count(), *rows.shape[1:])
        return jax.make_array_from_process_local_data(sharding, rows, shape)

    return jax.tree.map(place, batch)


def on_device(
    batches: Iterable[dict[str, np.ndarray]], sharding: NamedSharding
) -> Iterator[dict[str, jax.Array]]:
    """Yields global batches; the next one is already on its way while the caller uses this one."""
    ahead = None
    for batch in batches:
        ready, ahead = ahead, to_global(batch, sharding)
        if ready is not None:
            yield ready
    if ahead is not None:
        yield ahead


@contextlib.contextmanager
def closing(batches: Iterable):
    """Ends the worker processes of `batches`, if it has any, on leaving."""
    try:
        yield batches
    finally:
        if hasattr(batches, "close"):
            batches.close()
