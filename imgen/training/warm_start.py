"""Starting from another model's parameters where the two agree (a curriculum, fine-tuning)."""

import logging
from typing import Any

import jax
import numpy as np

from imgen import paths
from imgen.errors import UserError
from imgen.training.task import State

log = logging.getLogger(__name__)


def check_warm_start(params: Any, trained: dict[str, np.ndarray], run: str) -> None:
    """Raises UserError unless `trained` (by path) fits the shapes of `params`, and shares some of them."""
    ours = paths.flatten(params)
    shared = [path for path in ours if path in trained]
    if not shared:
        raise UserError(f"init.generator: {run} shares no parameter with this model")
    for path in shared:
        if ours[path].shape != trained[path].shape:
            raise UserError(
                f"init.generator: {path} has shape {trained[path].shape} in {run} and "
                f"{ours[path].shape} here; make width, depth and vocabulary those of that run"
            )
    fresh = sorted(path for path in ours if path not in trained)
    left = sorted(path for path in trained if path not in ours)
    log.info("%d parameter arrays from %s; fresh: %s; left out: %s", len(shared), run,
             ", ".join(fresh) or "none", ", ".join(left) or "none")  # fmt: skip


def warm_start(state: State, trained: dict[str, np.ndarray]) -> State:
    """`state` with the trained values in place of fresh ones in its parameters and their average."""

    def take(path, leaf):
        value = trained.get(paths.path_of(path))
        return leaf if value is None else jax.device_put(value.astype(leaf.dtype), leaf.sharding)

    return {
        name: jax.tree_util.tree_map_with_path(take, value) if name in ("params", "ema") else value
        for name, value in state.items()
    }
