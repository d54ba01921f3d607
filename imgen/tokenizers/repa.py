"""Representation alignment: features of a diffusion decoder are drawn to a teacher's of the clean image.

The loss is `semantic.cosine_loss`. Source: "Representation Alignment for Generation" (REPA), section 3.2;
the head's width is that of apple/ml-flextok's, its depth REPA's.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Projector(nn.Module):
    """Features [..., D] -> [..., features]: LayerNorm, three linear layers 4 D wide with SiLU between."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = 4 * x.shape[-1]
        init = nn.initializers.xavier_uniform()
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        for i in range(2):
            x = nn.silu(nn.Dense(hidden, dtype=self.dtype, kernel_init=init, name=f"linear_{i}")(x))
        return nn.Dense(self.features, dtype=self.dtype, kernel_init=init, name="out")(x)


def resize(features: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Features [B, h, w, D] -> float32 [B, *grid, D], bilinear."""
    shape = (features.shape[0], *grid, features.shape[-1])
    return jax.image.resize(features.astype(jnp.float32), shape, "bilinear")
