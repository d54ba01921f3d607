"""What is measured of a state while it trains, apart from the training step."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from imgen.parallel import prefetch
from imgen.parallel.mesh import batch_sharding
from imgen.training.task import State

Poll = Callable[[], None]


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """What is measured besides, every so many steps (0: after the last one only).

    measure: (state, poll) -> metrics; poll() is to be called between batches, equally often on every process:
      it raises Interrupted after a signal. prepare: (mesh, poll), called once before training, for what
      should not wait until the first measurement.
    """

    measure: Callable[[State, Poll], dict[str, float]]
    every: int = 0
    prepare: Callable[[Mesh, Poll], None] | None = None


def sum_over(
    eval_step: Callable, state: State, batches, mesh, poll: Poll | None = None
) -> dict[str, Any]:
    """What eval_step(state, batch) gives, a tree of arrays, summed over host batches. poll: called after
    each."""

    def widen(x: np.ndarray) -> np.ndarray:
        # Wide on the host: counts over a large set overflow float32's 24 bits.
        return x.astype(np.float64 if np.issubdtype(x.dtype, np.floating) else np.int64)

    sums: dict[str, Any] | None = None
    for batch in prefetch.on_device(batches, batch_sharding(mesh)):
        part = jax.tree.map(widen, jax.device_get(eval_step(state, batch)))
        sums = part if sums is None else jax.tree.map(np.add, sums, part)
        if poll:
            poll()
    return sums or {}


def of_first_process(values: dict[str, float]) -> dict[str, float]:
    """Its values on every process: the hosts' own may differ in the last digit, by which one of them would
    keep a best checkpoint that another does not. As bytes: JAX would cut float64 down to float32."""
    if jax.process_count() == 1 or not values:
        return values
    digits = np.array([*values.values()], np.float64).view(np.uint8)
    numbers = np.asarray(multihost_utils.broadcast_one_to_all(digits)).view(np.float64)
    return dict(zip(values, numbers.tolist(), strict=True))
