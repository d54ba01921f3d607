"""Representation alignment: tokens inside a decoder are drawn to a teacher's features of the clean image.

Source: "Representation Alignment for Generation" (REPA), section 3.2.
"""

import flax.linen as nn
import jax

from imgen.errors import UserError
from imgen.params.fields import training
from imgen.tokenizers.losses.semantic import FeatureTarget


class InnerTarget(FeatureTarget):
    """Predicts as `FeatureTarget` does from the image's tokens after the decoder's block `layer`, from 0."""

    layer: int = 1

    @nn.nowrap
    def check_layer(self, blocks: int) -> None:
        """Raises UserError where a decoder of so many blocks has no such one."""
        if self.layer not in range(blocks):
            raise UserError(
                f"tokenizer.repa reads the tokens after block layer = {self.layer}, which is none of the "
                f"decoder's {blocks}: count from 0"
            )


class Projector(InnerTarget):
    """Predicts as FlexTok does, [..., D] -> [..., features]: LayerNorm, three linear layers 4 D wide with
    SiLU between.

    Its width is that of apple/ml-flextok's, its depth REPA's.
    """

    weight: float = training(1.0)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = 4 * x.shape[-1]
        init = nn.initializers.xavier_uniform()
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        for i in range(2):
            x = nn.silu(nn.Dense(hidden, dtype=self.dtype, kernel_init=init, name=f"linear_{i}")(x))
        return nn.Dense(self.features, dtype=self.dtype, kernel_init=init, name="out")(x)
