"""BERT's encoder and sentence vectors of its features (all-MiniLM-L6-v2): post-norm, biases, exact GELU.

Source: Devlin et al. 2019; transformers, models/bert/modeling_bert.py; sentence-transformers, Pooling and
Normalize.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.errors import UserError
from imgen.nn.stack import stack


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Sizes, by the names of config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "BertConfig":
        """Reads a config.json. Raises UserError for other activations and positions, or where a size
        lacks."""
        fixed = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
        for name, value in fixed.items():
            if config.get(name, value) != value:
                raise UserError(f"config.json: {name} {config[name]!r} is not BERT's {value!r}")
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            return cls(**{name: config[name] for name in names if name in config})
        except TypeError as error:
            raise UserError(f"config.json is not whole: {error}") from error


class BertBlock(nn.Module):
    """x = norm(x + attention(x)); x = norm(x + feed-forward(x)). [B, T, D]; valid [B, T] bool: keys."""

    config: BertConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
        c, shape = self.config, x.shape
        heads = (*shape[:2], c.num_attention_heads, -1)

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, dtype=self.dtype, name=name)

        q, k, v = (dense(c.hidden_size, name)(x).reshape(heads) for name in "qkv")
        mixed = jax.nn.dot_product_attention(q, k, v, mask=valid[:, None, None, :]).reshape(shape)
        x = nn.LayerNorm(c.layer_norm_eps, name="norm1")(x + dense(c.hidden_size, "out")(mixed))
        h = nn.gelu(dense(c.intermediate_size, "up")(x), approximate=False)
        x = nn.LayerNorm(c.layer_norm_eps, name="norm2")(x + dense(c.hidden_size, "down")(h))
        return x, x


class Bert(nn.Module):
    """ids [B, T] int, mask [B, T] bool, segments [B, T] int (0 if None) -> features [B, T, D]; what padding
    gives is of no use. T is at most `max_position_embeddings`."""

    config: BertConfig
    dtype: Any = jnp.float32

    layers = None

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @nn.compact
    def hidden(
        self, ids: jax.Array, mask: jax.Array, segments: jax.Array | None = None
    ) -> jax.Array:
        """Returns outputs of the embedding and of all blocks [1 + L, B, T, D]."""
        c, init = self.config, nn.initializers.normal(0.02)
        if ids.shape[1] > c.max_position_embeddings:
            raise UserError(
                f"this BERT reads texts of up to {c.max_position_embeddings} tokens, not {ids.shape[1]}"
            )

        def table(rows: int, name: str) -> nn.Embed:
            return nn.Embed(rows, c.hidden_size, embedding_init=init, name=name)

        positions = table(c.max_position_embeddings, "positions")(jnp.arange(ids.shape[1]))
        segments = jnp.zeros_like(ids) if segments is None else segments
        x = table(c.vocab_size, "table")(ids) + positions
        x = x + table(c.type_vocab_size, "segments")(segments)
        x = nn.LayerNorm(c.layer_norm_eps, name="norm")(x)
        _, outputs = stack(BertBlock, c.num_hidden_layers)(c, self.dtype, name="blocks")(x, mask)
        return jnp.concatenate([x[None], outputs])

    def __call__(
        self, ids: jax.Array, mask: jax.Array, segments: jax.Array | None = None
    ) -> jax.Array:
        return self.hidden(ids, mask, segments)[-1]


def sentence_vectors(features: jax.Array, mask: jax.Array) -> jax.Array:
    """Averages features [B, T, D] over their mask [B, T], to length 1: [B, D]. Of such vectors the dot
    product is the cosine; word order hardly shows in it: no judge of relations."""
    mean = mean_pooled(features, mask)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def mean_pooled(features: jax.Array, mask: jax.Array) -> jax.Array:
    """Averages over the unmasked tokens, start and end included. [B, D]"""
    weights = mask.astype(features.dtype)[..., None]
    return (features * weights).sum(1) / jnp.maximum(weights.sum(1), 1e-9)
