"""Rows that are split over hosts and devices: this process's, those of all, and a mesh of its own devices.

`local_mesh` is for statistics that every process has all features for: arrays that lie on it are worked on by
this process's devices, rows split, whatever mesh is set outside. Without it each device would repeat all.
"""

import functools

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SPLIT, WHOLE = PartitionSpec("rows"), PartitionSpec()


@functools.cache
def local_mesh() -> Mesh:
    """This process's devices along the axis "rows"."""
    return Mesh(np.array(jax.local_devices()), ("rows",))


def put(array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    """Places an array. SPLIT: along the first axis, which must be a multiple of the devices. WHOLE: on each
    of them."""
    return jax.device_put(array, NamedSharding(mesh, spec))


def local_rows(x: jax.Array) -> np.ndarray:
    """Gives this process's rows of an array that is sharded by rows, in their order: those that
    `make_array_from_process_local_data` takes, wherever the mesh has this process's devices.

    Raises ValueError unless every process has equally many rows to itself.
    """
    shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
    rows = np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
    if len(rows) * jax.process_count() != len(x):
        raise ValueError(f"{len(rows)} of {len(x)} rows are here, sharded by {x.sharding}")
    return rows


def gather_rows(rows: np.ndarray) -> list[np.ndarray]:
    """Gives the rows [N, ...] of every process, on every process; of 4 bytes at most, and N may differ."""
    if jax.process_count() == 1:
        return [rows]
    counts = multihost_utils.process_allgather(np.int32(len(rows)))
    padded = np.zeros((counts.max(), *rows.shape[1:]), rows.dtype)
    padded[: len(rows)] = rows
    found = multihost_utils.process_allgather(padded)
    return [part[:count] for part, count in zip(found, counts, strict=True)]
