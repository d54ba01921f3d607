"""Where statistics that every process has all features for are computed: on its own devices, rows split.

Whatever mesh is set outside, arrays that lie on this one are worked on here; without it each device would
repeat the whole.
"""

import functools

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SPLIT, WHOLE = PartitionSpec("rows"), PartitionSpec()


@functools.cache
def local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("rows",))


def put(array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    """SPLIT: along the first axis, which must be a multiple of the devices. WHOLE: on each of them."""
    return jax.device_put(array, NamedSharding(mesh, spec))
