"""Multi-head attention over a staircase: query q sees the keys [0, visible[q]).

Every generator here stores its slots in generation order, which turns its mask into one non-decreasing
integer a query (see `generators.plan`): no T x T mask is ever stored, and the rows that a decoding call
appends to its cache are contiguous.
"""

import functools
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.dropout import Dropout, keep_mask
from imgen.nn.mlp import Init, kernel_init
from imgen.nn.norms import RMSNorm
from imgen.nn.rope import rotate
from imgen.parallel.constrain import constrain


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
    return jax.nn.dot_product_attention(q, k, v, mask=_mask(k, visible, key_valid))


def attend_with_dropout(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    visible: jax.Array,
    key_valid: jax.Array | None,
    rng: jax.Array,
    rate: float,
) -> jax.Array:
    """`attend`, its weights dropped out with probability `rate`. The backward pass makes scores and weights
    anew: of all that is [B, N, T, S] only the choice of what is kept stays in memory, a byte each."""
    keep, probability = keep_mask(rng, (len(q), q.shape[2], q.shape[1], k.shape[1]), rate)

    @jax.checkpoint
    def mix(q, k, v, keep):
        mask = _mask(k, visible, key_valid)
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
        scores = jnp.einsum("btnh,bsnh->bnts", q, k, preferred_element_type=jnp.float32)
        scores = jnp.where(mask, scores * q.shape[-1] ** -0.5, jnp.finfo(jnp.float32).min)
        weights = jnp.where(keep, jax.nn.softmax(scores, axis=-1) / probability, 0)
        return jnp.einsum("bnts,bsnh->btnh", weights.astype(v.dtype), v)

    return mix(q, k, v, keep)


def _mask(k: jax.Array, visible: jax.Array, key_valid: jax.Array | None) -> jax.Array:
    """[1 or B, 1, T, S]"""
    mask = (jnp.arange(k.shape[1]) < visible[:, None])[None, None]
    return mask if key_valid is None else mask & key_valid[:, None, None, :]


def attend_beside(
    q: jax.Array,  # [B, T, N, H]
    past: KVCache,  # heads before rows: [B, N, S, H]
    seen: jax.Array | int,  # rows of `past` that are seen, from the first
    k: jax.Array,  # [B, T, N, H]
    v: jax.Array,  # [B, T, N, H]
) -> jax.Array:  # [B, T, N, H]
    """`attend` of T tokens that see rows of a cache and, all of them, each other. The cache is only read: a
    loop over it neither copies nor transposes it."""
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # [B, N, T, H]
    pieces = [[x.astype(q.dtype) for x in piece] for piece in (past, (k, v))]
    scores = [
        jnp.einsum("bnth,bnsh->bnts", q, keys, preferred_element_type=jnp.float32)
        for keys, _ in pieces
    ]
    rows = past.k.shape[2]
    scores[0] = jnp.where(jnp.arange(rows) < seen, scores[0], jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1) * q.shape[-1] ** -0.5)
    weights = jnp.split(weights.astype(q.dtype), [rows], axis=-1)
    out = sum(
        jnp.einsum("bnts,bnsh->bnth", part, values)
        for part, (_, values) in zip(weights, pieces, strict=True)
    )
    return out.swapaxes(1, 2)


class SlotPositions(NamedTuple):
    """Where slots stand. T slots, or [B, T, ...] where each sample has its own.

    cos, sin: [T, H / 2] of their rotary positions, None without rotation.
    rows: [T] int, rows of a learned position table, None without one.
    """

    cos: jax.Array | None
    sin: jax.Array | None
    rows: jax.Array | None


class Attention(nn.Module):
    """Self-attention with rotary positions, grouped key/value heads and an explicit cache.

    The projections are one kernel [D, Nkv, G + 2, H] with G = N / Nkv: for each key/value head its G
    query heads, then its key, then its value. One matrix product, cut by `tensor` along Nkv.

    qk_norm: of each head's queries and keys, before the rotation: RMSNorm, or "layer" LayerNorm.
    use_bias: of both projections; out_bias: of the last one, by default as `use_bias`.
    dropout: of the attention weights and of the output.
    Given a context [B, C, D], its keys and values, from the same projections and without positions, come
    before the others: rows [0, C) of what `visible` and `key_valid` count.
    """

    heads: int
    kv_heads: int | None = None
    init_std: Init = 0.02
    dtype: jnp.dtype = jnp.float32
    qk_norm: bool | Literal["layer"] = False
    norm_eps: float = 1e-6
    use_bias: bool = False
    out_bias: bool | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: jax.Array,  # [B, T, D]
        positions: SlotPositions,
        visible: jax.Array,  # [T]
        key_valid: jax.Array | None = None,  # [B, S]
        context: jax.Array | None = None,  # [B, C, D]
        cache: KVCache | None = None,
        start: jax.Array | int = 0,  # cache row of the first key
        read: int | None = None,  # rows of the cache that are read
        write: bool = True,
    ) -> tuple[jax.Array, KVCache | None]:
        """Returns the output [B, T, D] and, given a cache, the cache with this call's rows written.

        write=False: the cache is left as it is; the T tokens see its rows [0, start) and each other, whatever
            `visible` says. Neither grouped heads nor a context or padding go with it.
        """
        batch, length, width = x.shape
        kv_heads = self.kv_heads or self.heads
        group, head_dim = self.heads // kv_heads, width // self.heads
        before = 0
        if context is not None:
            before = context.shape[1]
            x = jnp.concatenate([context.astype(x.dtype), x], axis=1)
        qkv = nn.DenseGeneral(
            (kv_heads, group + 2, head_dim),
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=kernel_init(self.init_std),
            name="qkv",
        )(x)
        qkv = constrain(qkv, "batch", None, "heads", None, None)
        q = qkv[:, before:, :, :group].reshape(batch, length, self.heads, head_dim)
        k, v = qkv[:, :, :, group], qkv[:, :, :, group + 1]
        if self.qk_norm:
            norm = RMSNorm
            if self.qk_norm == "layer":
                norm = functools.partial(nn.LayerNorm, dtype=self.dtype)
            q, k = norm(self.norm_eps, name="q_norm")(q), norm(self.norm_eps, name="k_norm")(k)
        if positions.cos is not None:
            q = rotate(q, positions.cos, positions.sin)
            rotated = rotate(k[:, before:], positions.cos, positions.sin)
            k = jnp.concatenate([k[:, :before], rotated], axis=1) if before else rotated
        if cache is not None and not write:
            out = attend_beside(q, cache, start, k, v)
        else:
            if cache is not None:
                cache = KVCache(
                    *(
                        jax.lax.dynamic_update_slice_in_dim(
                            rows, new.astype(rows.dtype), start, axis=1
                        )
                        for rows, new in ((cache.k, k), (cache.v, v))
                    )
                )
                k, v = cache.k[:, :read], cache.v[:, :read]
            if self.dropout > 0 and self.has_rng("dropout"):
                rng = self.make_rng("dropout")
                out = attend_with_dropout(q, k, v, visible, key_valid, rng, self.dropout)
            else:
                out = attend(q, k, v, visible, key_valid)
        out = nn.DenseGeneral(
            width,
            axis=(-2, -1),
            use_bias=self.use_bias if self.out_bias is None else self.out_bias,
            dtype=self.dtype,
            kernel_init=kernel_init(self.init_std),
            name="out",
        )(out)
        return Dropout(self.dropout)(out), cache
