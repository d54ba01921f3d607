"""Latents without their tokenizer: codes that another program stored, known by their layout only."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.latents import LatentSpec
from imgen.params.fields import training
from imgen.tokenizers.tokenizer import ImageSize, Tokenizer


class StoredCodes(Tokenizer):
    """Stands for a tokenizer, without parameters, that can neither encode nor decode; generators train on
    its layout.

    kind, grid, size: of `LatentSpec`. For videos the grid is (T, H, W).
    """

    kind: str
    grid: tuple[int, ...]
    size: int
    dtype: jnp.dtype = training(jnp.float32)

    @nn.nowrap
    def spec(self, image_size: ImageSize) -> LatentSpec:
        """Describes the same for any image size."""
        return LatentSpec(self.kind, self.grid, self.size)

    def encode(self, images: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        raise UserError('tokenizer "codes" has no encoder: set data.source to stored latents')

    def decode(self, latents: jax.Array) -> jax.Array:
        raise UserError('tokenizer "codes" has no decoder: its codes cannot be shown as pictures')
