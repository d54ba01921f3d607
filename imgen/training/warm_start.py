"""Starting from another model's parameters where the two agree (a curriculum, fine-tuning)."""

import logging
from typing import Any

import jax
import numpy as np

from imgen.errors import UserError
from imgen.params import paths
from imgen.training.task import State

log = logging.getLogger(__name__)


def check_warm_start(params: Any, trained: Any, run: str, where: str) -> None:
    """Raises UserError, naming the config's key `where`, unless the trees (arrays or shapes) share some
    paths, of the same shapes."""
    ours, trained = paths.flatten(params), paths.flatten(trained)
    shared = [path for path in ours if path in trained]
    if not shared:
        raise UserError(f"{where}: {run} shares no parameter with this model")
    for path in shared:
        if ours[path].shape != trained[path].shape:
            raise UserError(
                f"{where}: {path} has shape {trained[path].shape} in {run} and "
                f"{ours[path].shape} here; make the sizes those of that run"
            )


def warm_start(state: State, trained: dict[str, np.ndarray]) -> State:
    """`state` with the trained values in place of fresh ones in its parameters and their average."""
    ours = paths.flatten(state["params"])
    fresh, unused = sorted(ours.keys() - trained.keys()), sorted(trained.keys() - ours.keys())
    log.info(
        "starting from %d trained arrays; fresh: %s; unused: %s",
        len(ours) - len(fresh), ", ".join(fresh) or "none", ", ".join(unused) or "none",
    )  # fmt: skip

    def take(path, leaf):
        value = trained.get(paths.path_of(path))
        if value is None:
            return leaf
        # A copy for each, by way of the host: the loop donates its state, the average starts from the same
        # array, and of an array on a device device_put may hand out that device's own buffer.
        return jax.device_put(np.array(value, leaf.dtype), leaf.sharding, may_alias=False)

    return {
        name: jax.tree_util.tree_map_with_path(take, value) if name in ("params", "ema") else value
        for name, value in state.items()
    }
