"""TENOR: the order of the words, told anew to every attention from image to text.

A sinusoid of the token's number is added to the text before the projection to keys (and, where text makes
queries too, before that), not before the one to values: K = W_k (h + PE), V = W_v h, in training and use, for
the null prompt as well. No parameters. Source: CoMPaSS (Zhang et al. 2025), TENOR/sd/src and
TENOR/flux/src/flux/modules/layers.py, whose code adds before the projection.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def sinusoid(length: int, width: int) -> np.ndarray:
    """Returns [length, width] float32: sin(t / 10000^(2k / width)) at 2k, the cosine at 2k + 1; a last sine
    of an odd width has no cosine."""
    even = width + width % 2  # as the official class has it
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, even, 2) / even)
    pairs = np.stack([np.sin(angles), np.cos(angles)], axis=-1)
    return pairs.reshape(length, even)[:, :width].astype(np.float32)


def with_order(text: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Adds to text [B, T, C] the sinusoid of each token's number.

    mask [B, T] bool: tokens are counted from each text's first one, which with padding on the left is not at
    0; without it, as officially, from 0 on, padding included.
    """
    table = jnp.asarray(sinusoid(text.shape[-2], text.shape[-1]), text.dtype)
    if mask is None:
        return text + table
    first = jnp.argmax(mask, axis=1, keepdims=True)
    return text + table[jnp.maximum(jnp.arange(text.shape[-2]) - first, 0)]


class CrossAttention(nn.Module):
    """Hidden [B, Q, D] looks at text [B, T, C] -> [B, Q, D]. mask [B, T] bool: the tokens that are seen.

    tenor: whether keys are of the text with its order. `out` has a bias, the others have none.
    """

    heads: int
    tenor: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, hidden: jax.Array, text: jax.Array, mask: jax.Array | None = None
    ) -> jax.Array:
        width = hidden.shape[-1]

        def heads(x: jax.Array, name: str) -> jax.Array:
            x = nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)(x)
            return x.reshape(*x.shape[:2], self.heads, -1)

        ordered = with_order(text, mask) if self.tenor else text
        seen = None if mask is None else mask[:, None, None, :]
        q, k, v = heads(hidden, "q"), heads(ordered, "k"), heads(text, "v")
        mixed = jax.nn.dot_product_attention(q, k, v, mask=seen).reshape(hidden.shape)
        return nn.Dense(width, dtype=self.dtype, name="out")(mixed)
