"""Frozen networks that metrics look at images with."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

PyTree = Any


@dataclasses.dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network that metrics look at images with.

    name: as Protocol.network. resize: how images come to its size, as Protocol.resize words it. dtype: that
    it computes in. params: numpy arrays. apply: pure, jittable: uint8 images [B, H, W, 3] -> features by
    name, float32. widths: of what it gives. hash: SHA-256 (first 8 hex digits) of the weights.
    """

    name: str
    resize: str
    dtype: str
    params: PyTree
    apply: Callable[[PyTree, jax.Array], dict[str, jax.Array]]
    widths: dict[str, int]
    hash: str
