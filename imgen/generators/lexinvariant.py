"""Lexinvariant embeddings: a head whose codes' vectors are drawn anew for every sequence, tied to the output.

A code keeps its vector inside a sequence and has another in the next, so the model can only use how codes
recur, not which they are. Shapes: B sequences, V vocabulary, D width. (Huang et al., NeurIPS 2023; no code.)

Limits: the table costs B * V * D numbers, and learning what codes mean within a sequence needs T >> V.
"""

import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.generators.arrays import Purpose, fold
from imgen.generators.code_heads import CategoricalHead
from imgen.generators.head import Head

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


class LexinvariantHead(CategoricalHead):
    """A categorical head without an output of its own.   share: of the codes whose vectors are random; of
    less than 1 the learned ones are those of `CategoricalHead`."""

    share: float = 1.0

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise UserError(f"generator.lexinvariant {self.share}: a share in (0, 1], or None")
        if self.size > MAX_VOCABULARY:
            raise UserError(
                f"lexinvariant vectors are drawn for every sequence: at most {MAX_VOCABULARY} codes, "
                f"not {self.size}"
            )
        super().__post_init__()

    def vectors(self, keys: jax.Array | None, batch: int) -> jax.Array:
        """Tables [B, V, D]. Without keys, mixed tables hold the learned vectors and random ones are the same
        at every call."""
        learned = None if self.share == 1 else self.tokens.embedding
        if keys is None and learned is not None:
            return jnp.broadcast_to(learned, (batch, *learned.shape))
        keys = jax.random.split(jax.random.key(0), batch) if keys is None else keys
        keys = fold(keys, Purpose.VECTORS)
        return draw_tables(keys, learned, self.size, self.hidden, self.share)

    def sampling_vectors(self, keys: jax.Array, batch: int) -> jax.Array:
        """Mixed tables are a regulariser: samples use the learned one."""
        return self.vectors(keys if self.share == 1 else None, batch)

    def embed(self, codes: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        return embed(vectors, codes).astype(self.dtype)

    def read(self, exit: int, hidden: jax.Array, vectors: jax.Array | None = None) -> jax.Array:
        return logits(vectors, self.normed(exit, hidden), self.hidden**-0.5)


def lexinvariant(head: Head, share: float) -> LexinvariantHead:
    """Returns a categorical head with such vectors. Raises UserError for another head."""
    if type(head) is not CategoricalHead:
        raise UserError(
            "lexinvariant vectors replace a table of indices: they need a categorical head and no windows"
        )
    fields = {name: getattr(head, name) for name in FIELDS}
    return LexinvariantHead(share=share, **fields)


FIELDS = ("size", "hidden", "exits", "norm_eps", "init_std", "dtype")
