"""RMSNorm as the Llama family writes it."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class RMSNorm(nn.Module):
    """x / rms(x) * scale, cast back to x's type before the gain. [..., D] -> [..., D]."""

    eps: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        return rms_norm(x, self.eps) * scale.astype(x.dtype)


def rms_norm(x: jax.Array, eps: float) -> jax.Array:
    """x / rms(x), without a gain: statistics in float32, cast back to x's type."""
    x32 = x.astype(jnp.float32)
    normed = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return normed.astype(x.dtype)
