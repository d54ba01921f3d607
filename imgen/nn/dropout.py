"""Dropout from packed random bytes, and drop-path.

Both act exactly when the caller passes a "dropout" key to `apply`; evaluation passes none.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


def keep_mask(rng: jax.Array, shape: tuple[int, ...], rate: float) -> tuple[jax.Array, float]:
    """A bool mask and the exact probability of True, which is `1 - rate` rounded to 1/256.

    One 32-bit draw serves four elements: several times cheaper than `jax.random.bernoulli`,
    which spends one draw on each.
    """
    kept = round(256 * (1.0 - rate))
    n = math.prod(shape)
    words = jax.random.bits(rng, ((n + 3) // 4,), jnp.uint32)
    octets = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:n]
    return octets.reshape(shape) < kept, kept / 256


class Dropout(nn.Module):
    """Zeroes elements with probability `rate` and rescales the others."""

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.rate == 0.0 or not self.has_rng("dropout"):
            return x
        keep, probability = keep_mask(self.make_rng("dropout"), x.shape, self.rate)
        return jnp.where(keep, x / probability, 0).astype(x.dtype)


class DropPath(nn.Module):
    """Drops a residual branch for whole samples (stochastic depth), rescaling those kept.

    `rate` may be traced: it differs from layer to layer under `nn.scan`.
    """

    active: bool

    @nn.compact
    def __call__(self, x: jax.Array, rate: jax.Array | float) -> jax.Array:
        if not self.active or not self.has_rng("dropout"):
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - rate, (x.shape[0],))
        scale = keep.astype(jnp.float32) / (1.0 - rate)
        return x * scale.reshape((-1,) + (1,) * (x.ndim - 1)).astype(x.dtype)
