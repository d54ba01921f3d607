"""T5 v1.1's encoder (FLAN-T5 has the same form): relative positions, RMS norms, gated GELU, no biases.

Source: Raffel et al. 2020; Shazeer 2020, "GLU Variants"; transformers, models/t5/modeling_t5.py. Attention
has no 1/sqrt(d): it stands in the initial weights.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError
from imgen.nn.norms import RMSNorm
from imgen.nn.stack import stack


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes, by the names of config.json, whose other entries an encoder has no use for."""

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "T5Config":
        """Reads a config.json. Raises UserError for T5 of version 1.0, which has another feed-forward
        layer."""
        kind = config.get("feed_forward_proj", "relu")
        if kind != "gated-gelu":
            raise UserError(
                f"config.json: feed_forward_proj {kind!r} is not T5 v1.1's gated-gelu; take a FLAN one"
            )
        names = [field.name for field in dataclasses.fields(cls)]
        try:
            return cls(**{name: config[name] for name in names if name in config})
        except TypeError as error:
            raise UserError(f"config.json is not whole: {error}") from error


def buckets(distance: np.ndarray, num: int = 32, furthest: int = 128) -> np.ndarray:
    """Says which row of the table is for each key - query distance: half of the rows for keys in front; of
    a half, the first half one a distance, the others by the logarithm of the distance, in float32 as
    published."""
    half, exact = num // 2, num // 4
    a = np.abs(distance)
    scale = np.float32(np.log(furthest / exact))
    far = np.log(np.maximum(a, 1).astype(np.float32) / np.float32(exact)) / scale * (half - exact)
    far = np.minimum(exact + far.astype(np.int32), half - 1)
    return np.where(distance > 0, half, 0) + np.where(a < exact, a, far)


class T5Block(nn.Module):
    """x += attention(norm x); x += feed-forward(norm x). [B, T, D]; bias [B, H, T, T] of the scores."""

    config: T5Config
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, bias: jax.Array) -> tuple[jax.Array, jax.Array]:
        c = self.config

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)

        h = RMSNorm(c.layer_norm_epsilon, name="norm1")(x)
        q, k, v = (
            dense(c.num_heads * c.d_kv, name)(h).reshape(*h.shape[:2], c.num_heads, c.d_kv)
            for name in "qkv"
        )
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) + bias
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores).astype(self.dtype), v)
        x = x + dense(c.d_model, "out")(mixed.reshape(*h.shape[:2], -1))

        h = RMSNorm(c.layer_norm_epsilon, name="norm2")(x)
        gated = nn.gelu(dense(c.d_ff, "gate")(h), approximate=True) * dense(c.d_ff, "up")(h)
        x = x + dense(c.d_model, "down")(gated)
        return x, x


class T5(nn.Module):
    """ids [B, T] int, mask [B, T] bool -> features [B, T, D] after the last norm; what padding gives is of no
    use. Keep to float32 or bfloat16: in float16 published weights overflow."""

    config: T5Config
    dtype: Any = jnp.float32

    layers = None

    @property
    def width(self) -> int:
        return self.config.d_model

    @nn.compact
    def hidden(self, ids: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns features; outputs of the embedding and of all blocks [1 + L, B, T, D]; position bias [H,
        T, T]."""
        c, at = self.config, np.arange(ids.shape[1])
        x = nn.Embed(c.vocab_size, c.d_model, dtype=self.dtype, name="table")(ids)
        table = self.param(
            "relative",
            nn.initializers.normal(c.d_model**-0.5),
            (c.relative_attention_num_buckets, c.num_heads),
        )
        rows = buckets(
            at - at[:, None], c.relative_attention_num_buckets, c.relative_attention_max_distance
        )
        position = jnp.moveaxis(table[rows], -1, 0)
        bias = jnp.where(mask[:, None, None, :], position, jnp.finfo(jnp.float32).min)
        last, outputs = stack(T5Block, c.num_layers)(c, self.dtype, name="blocks")(x, bias)
        features = RMSNorm(c.layer_norm_epsilon, name="norm")(last)
        return features, jnp.concatenate([x[None], outputs]), position

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return self.hidden(ids, mask)[0]
