"""Host batches -> global device arrays, one ahead of the step that uses them."""

import contextlib
from collections.abc import Iterable, Iterator

import jax
import numpy as np
from jax.sharding import NamedSharding


def to_global(batch: dict[str, np.ndarray], sharding: NamedSharding) -> dict[str, jax.Array]:
    """This process's examples [B/processes, ...] -> arrays of the global batch [B, ...]."""
    return {k: jax.make_array_from_process_local_data(sharding, v) for k, v in batch.items()}


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
