"""Adaptive LayerNorm: a condition shifts and scales what a norm without parameters gives.

Source: "Scalable Diffusion Models with Transformers" (DiT), section 3.2, adaLN-Zero.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.mlp import Init, kernel_init


def layer_norm(x: jax.Array, eps: float = 1e-5) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) over the last axis, in float32, cast back to x's type."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + eps)).astype(x.dtype)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x (1 + scale) + shift."""
    return x * (1 + scale) + shift


class Modulation(nn.Module):
    """Condition [..., D] -> [..., *parts, width]: shifts, scales and gates.

    parts: how many vectors, e.g. (6,) for a block; models disagree about their order.
    init: of the kernel; None starts all of them at zero.
    """

    parts: tuple[int, ...]
    width: int
    dtype: Any = jnp.float32
    init: Init | None = None

    @nn.compact
    def __call__(self, condition: jax.Array) -> jax.Array:
        init = nn.initializers.zeros if self.init is None else kernel_init(self.init)
        return nn.DenseGeneral(
            (*self.parts, self.width), dtype=self.dtype, kernel_init=init, name="linear"
        )(nn.silu(condition))
