"""Finite scalar quantisation: each channel is rounded to one of a few levels.

Source: "Finite Scalar Quantization: VQ-VAE Made Simple", appendix A.1; apple/ml-flextok,
regularizers/quantize_fsq.py.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.params.fields import silent
from imgen.tokenizers.quantizers.base import Layout, Quantized, Quantizer, straight_through
from imgen.tokenizers.ranges import whole_numbers


class FSQ(Quantizer):
    """Turns features [..., len(levels)] into one index a position in [0, prod(levels)).

    Channel i takes levels[i] values in [-1, 1]; channel 0 is the fastest digit of the index. There is
    nothing to learn and no loss. Raises UserError for levels under 2 or more codes than int32 counts.
    """

    levels: Sequence[int] = silent((8, 8, 8, 5, 5, 5))
    epsilon: float = 1e-3

    def __post_init__(self):
        row = whole_numbers(self.levels, 2) and len(self.levels)
        if not row or math.prod(self.levels) >= 2**31:
            raise UserError(
                f"FSQ levels {self.levels}: give a row such as (8, 5, 5, 5), each at least 2, and their "
                "product under 2^31"
            )
        super().__post_init__()

    @property
    def layout(self) -> Layout:
        return Layout("index", math.prod(self.levels), len(self.levels), len(self.levels))

    def __call__(self, z: jax.Array, rng: jax.Array | None = None) -> Quantized:
        del rng
        bounded = self.bound(z)
        rounded = straight_through(jnp.round(bounded), bounded)
        return Quantized(rounded / self._half, self._index(rounded), {})

    def bound(self, z: jax.Array) -> jax.Array:
        """Returns what is rounded: each channel squashed into the range of its levels."""
        levels = np.asarray(self.levels, np.float32)
        reach = (levels - 1) * (1 + self.epsilon) / 2
        offset = np.where(levels % 2 == 0, 0.5, 0.0).astype(np.float32)
        shift = np.arctanh(offset / reach)
        return jnp.tanh(z.astype(jnp.float32) + shift) * reach - offset

    def encode(self, z: jax.Array, rng: jax.Array | None = None) -> jax.Array:
        """Turns features [..., C] into int32 indices [...]; the same with or without a key."""
        del rng
        return self._index(jnp.round(self.bound(z)))

    def decode(self, latents: jax.Array) -> jax.Array:
        """Turns indices [...] into float32 values [..., C] in [-1, 1]."""
        digits = latents[..., None] // self._basis % np.asarray(self.levels)
        return (digits - self._half) / self._half.astype(np.float32)

    @property
    def _half(self) -> np.ndarray:
        return np.asarray(self.levels) // 2

    @property
    def _basis(self) -> np.ndarray:
        return np.cumprod((1, *self.levels[:-1])).astype(np.int32)

    def _index(self, rounded: jax.Array) -> jax.Array:
        digits = jax.lax.stop_gradient(rounded).astype(jnp.int32) + self._half
        return jnp.sum(digits * self._basis, axis=-1, dtype=jnp.int32)
