"""Multi-head attention over a staircase: query q sees the keys [0, visible[q]).

Every generator here stores its slots in generation order, which turns its mask into one non-decreasing
integer a query (see `generators.plan`): no T x T mask is ever stored, and the rows that a decoding call
appends to its cache are contiguous.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.constrain import constrain
from imgen.nn.mlp import normal_init
from imgen.nn.rope import rotate


class KVCache(NamedTuple):
    """Keys and values [B, rows, kv_heads, H] of one layer."""

    k: jax.Array
    v: jax.Array


def attend(
    q: jax.Array,  # [B, T, N, H]
    k: jax.Array,  # [B, S, Nkv, H]
    v: jax.Array,  # [B, S, Nkv, H]
    visible: jax.Array,  # [T] int: query t sees keys [0, visible[t])
    key_valid: jax.Array | None = None,  # [B, S] bool: padding columns are False
) -> jax.Array:  # [B, T, N, H]
    """softmax(q k / sqrt(H)) v with float32 scores. A row that sees nothing returns the mean of v."""
    mask = (jnp.arange(k.shape[1]) < visible[:, None])[None, None]  # [1, 1, T, S]
    if key_valid is not None:
        mask = mask & key_valid[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask)


class Attention(nn.Module):
    """Self-attention with rotary positions, grouped key/value heads and an explicit cache.

    The projections are one kernel [D, Nkv, G + 2, H] with G = N / Nkv: for each key/value head its G
    query heads, then its key, then its value. One matrix product, cut by `tensor` along Nkv.
    """

    heads: int
    kv_heads: int | None = None
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        cos: jax.Array,  # [T, H / 2]
        sin: jax.Array,
        visible: jax.Array,  # [T]
        key_valid: jax.Array | None = None,  # [B, S]
        cache: KVCache | None = None,
        start: jax.Array | int = 0,  # cache row of the first query
        read: int | None = None,  # rows of the cache that are read
    ) -> tuple[jax.Array, KVCache | None]:
        """Returns the output [B, T, D] and, given a cache, the cache with this call's rows written."""
        batch, length, width = x.shape
        kv_heads = self.kv_heads or self.heads
        group, head_dim = self.heads // kv_heads, width // self.heads
        qkv = nn.DenseGeneral(
            (kv_heads, group + 2, head_dim),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=normal_init(self.init_std),
            name="qkv",
        )(x)
        qkv = constrain(qkv, "batch", None, "heads", None, None)
        q = qkv[:, :, :, :group].reshape(batch, length, self.heads, head_dim)
        q, k, v = (
            rotate(q, cos, sin),
            rotate(qkv[:, :, :, group], cos, sin),
            qkv[:, :, :, group + 1],
        )
        if cache is not None:
            cache = KVCache(
                *(
                    jax.lax.dynamic_update_slice_in_dim(rows, new.astype(rows.dtype), start, axis=1)
                    for rows, new in ((cache.k, k), (cache.v, v))
                )
            )
            k, v = cache.k[:, :read], cache.v[:, :read]
        out = attend(q, k, v, visible, key_valid)
        out = nn.DenseGeneral(
            width,
            axis=(-2, -1),
            use_bias=False,
            dtype=self.dtype,
            kernel_init=normal_init(self.init_std),
            name="out",
        )(out)
        return out, cache
