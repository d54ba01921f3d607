"""Generation without a condition: one learned slot from which the image starts."""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.conditioning.conditions import Condition, Labels
from imgen.nn.mlp import normal_init


class Unconditional(nn.Module):
    """A learned row, as a slot and as a vector, the same for all images and for the null condition.

    cond: {"label": [B]}, which tells how many images there are.
    """

    width: int
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    num_classes: ClassVar[None] = None
    num_slots: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]] = ("label",)
    gives: ClassVar[tuple[str, ...]] = ("slots", "vector")

    @nn.nowrap
    def default_conditions(self, num: int, class_balance: str, seed: int) -> Labels:
        """Returns `num` conditions of one kind."""
        return Labels(np.zeros(num, np.int32), ("",))

    @nn.nowrap
    def example(self, batch: int) -> dict[str, jax.Array]:
        return {"label": jnp.zeros(batch, jnp.int32)}

    @nn.compact
    def __call__(self, cond: dict, null: jax.Array) -> Condition:
        start = self.param("start", normal_init(self.init_std), (1, self.width))
        row = jnp.broadcast_to(start.astype(self.dtype), (len(null), self.width))
        return Condition(slots=row[:, None, :], vector=row)
