"""Lexinvariant embeddings: codes whose vectors are drawn anew for every sequence, tied to the output.

A code keeps its vector inside a sequence and has another in the next, so the model can only use how codes
recur, not which they are. Shapes: B sequences, V vocabulary, D width. (Huang et al., NeurIPS 2023; no code.)

Limits: the table costs B * V * D numbers, and learning what codes mean within a sequence needs T >> V.
"""

import jax
import jax.numpy as jnp

MAX_VOCABULARY = 1024


def draw_tables(
    keys: jax.Array, learned: jax.Array | None, vocab: int, width: int, share: float
) -> jax.Array:
    """Tables [B, V, D] from a key for each sequence: N(0, I) rows.

    share < 1 ("mixed"): each row is random with that probability, otherwise that of `learned` [V, D].
    """

    def one(key):
        rows_key, mask_key = jax.random.split(key)
        table = jax.random.normal(rows_key, (vocab, width))
        if share == 1.0:
            return table
        return mix(table, learned, jax.random.bernoulli(mask_key, share, (vocab,)))

    return jax.vmap(one)(keys)


def mix(random: jax.Array, learned: jax.Array, is_random: jax.Array) -> jax.Array:
    """Rows [..., V, D] of the random table where `is_random` [..., V], of the learned one elsewhere."""
    return jnp.where(is_random[..., None], random, learned)


def embed(table: jax.Array, codes: jax.Array) -> jax.Array:
    """table [B, V, D], codes [B, T] -> [B, T, D]."""
    return jnp.take_along_axis(table, codes[..., None], axis=1)


def logits(table: jax.Array, hidden: jax.Array, scale: float) -> jax.Array:
    """scale * hidden . table, the output tied to the same tables. [B, T, D] -> float32 [B, T, V]."""
    return scale * jnp.einsum("btd,bvd->btv", hidden, table, preferred_element_type=jnp.float32)
