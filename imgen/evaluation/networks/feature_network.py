"""A frozen network whose features metrics compare."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network that metrics look at images with.

    name, resize, dtype: as `records.Protocol` words them. params: numpy arrays. apply: pure, jittable;
    params and uint8 images [B, H, W, 3] -> float32 features [B, D] by name. widths: D of each. hash: the
    first 8 hex digits of the SHA-256 of params, for files of reference statistics. prepare: what is done to
    each image on the host before, uint8 [H, W, 3] both ways.
    """

    name: str
    resize: str
    dtype: str
    params: Any
    apply: Callable[[Any, jax.Array], dict[str, jax.Array]]
    widths: dict[str, int]
    hash: str
    prepare: Callable[[np.ndarray], np.ndarray] | None = None
