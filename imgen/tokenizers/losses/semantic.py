"""Semantic targets: codes from which a frozen teacher's features of the image can be told.

Source: SEED (AILab-CVC/SEED, blip2_qformer_codebook_all_image.py), whose codes predict what they are the
codes of (cosine, weight 2) and an image embedding (squared error, weight 0.5). `repa` has the heads that
read a decoder's inner tokens. A config gives a head as a mapping of its arguments (`make_head`).

The teacher's features are data, float [B, M, F], computed by whoever makes the batches. Without them there
is no loss, and a training pass that should have them is an error.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.config.construct import construct
from imgen.errors import UserError
from imgen.nn.vit import ViT

HEADS = ("semantic_target", "repa")  # what tokenizers call theirs
NORM_EPS = 1e-5


def cosine_loss(predicted: jax.Array, teacher: jax.Array) -> jax.Array:
    """mean of 1 - cos over all but the last axis, in float32."""
    predicted, teacher = (x.astype(jnp.float32) for x in (predicted, teacher))

    def unit(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)

    return jnp.mean(1.0 - jnp.sum(unit(predicted) * unit(teacher), axis=-1))


def heads_of(tokenizer: nn.Module) -> list[str]:
    """The names of a tokenizer's heads that are on: what a teacher's features are for."""
    return [name for name in HEADS if getattr(tokenizer, name, None) is not None]


def teacher_loss(
    name: str, head: nn.Module | None, tokens: jax.Array, teacher: jax.Array | None, training: bool
) -> dict[str, jax.Array]:
    """{name: loss} of a head of HEADS; {} where it is off, and outside training without a teacher.

    tokens: what the head reads, [B, K, D] or a grid [B, h, w, D], which is resized to that of the teacher.
    teacher: features [B, M, F].

    Raises UserError where they don't fit the head, or where a training pass has none.
    """
    if head is None:
        return {}
    if tokens.ndim == 4:
        tokens = _resized(tokens, teacher, name)
    predicted = head(tokens)
    shape = predicted.shape[1:]
    if teacher is None:
        if training:
            raise UserError(
                f"tokenizer.{name} is on, but the batch has no teacher features [B, {shape[0]}, "
                f"{shape[1]}]: store them with the data, or leave {name} out"
            )
        return {}
    if teacher.shape[1:] != shape:
        raise UserError(
            f"tokenizer.{name} takes {shape[0]} teacher features of width {shape[1]} an image, but "
            f"the batch has {teacher.shape[1:]}: set {name} to what the data hold"
        )
    return {name: head.loss(predicted, teacher)}


def _resized(tokens: jax.Array, teacher: jax.Array | None, name: str) -> jax.Array:
    """[B, h, w, D] -> [B, M, D], float32 and bilinear where the teacher has another number of features, which
    must be that of a square then (UserError)."""
    batch, h, w, width = tokens.shape
    if teacher is not None and teacher.shape[1] != h * w:
        count = teacher.shape[1]
        side = math.isqrt(count)
        if side**2 != count:
            raise UserError(
                f"tokenizer.{name}: the teacher's {count} features an image are neither {h}x{w}, as the "
                "tokens are, nor a square grid: store those of the patches alone"
            )
        shape = (batch, side, side, width)
        tokens = jax.image.resize(tokens.astype(jnp.float32), shape, "bilinear")
    return tokens.reshape(batch, -1, width)


class SemanticTarget(nn.Module):
    """Quantised values [B, K, C] -> a teacher's features [B, M, F] and their loss.

    features, queries: F and M. A single query stands for an embedding of the whole image.
    layers, width, heads: plain transformer blocks over K latents and M learned queries, all of which
        see one another.
    token_weight: of 1 - cosine of each feature.
    pooled_weight: of the mean squared error of the mean over the M features.
    """

    features: int
    queries: int
    layers: int = 4
    width: int = 768
    heads: int = 12
    token_weight: float = 2.0
    pooled_weight: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """The predicted features, float32."""
        init = nn.initializers.normal(0.02)
        x = nn.Dense(self.width, dtype=self.dtype, name="values_in")(values)
        x = x + self.param("positions", init, (x.shape[1], self.width)).astype(x.dtype)
        queries = self.param("query_tokens", init, (self.queries, self.width)).astype(x.dtype)
        queries = jnp.broadcast_to(queries, (x.shape[0], *queries.shape))
        x = jnp.concatenate([x, queries], axis=1)
        x = ViT(self.layers, self.heads, dtype=self.dtype, name="vit")(x)
        x = nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm")(x[:, -self.queries :])
        x = nn.Dense(self.features, dtype=self.dtype, name="features_out")(x)
        return x.astype(jnp.float32)

    @nn.nowrap
    def loss(self, predicted: jax.Array, teacher: jax.Array) -> jax.Array:
        """The weighted sum of both terms."""
        teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32))
        loss = self.token_weight * cosine_loss(predicted, teacher)
        if self.pooled_weight:
            error = jnp.square(predicted.mean(1) - teacher.mean(1))
            loss += self.pooled_weight * jnp.mean(error)
        return loss


class FeatureTarget(nn.Module):
    """Tokens [B, M, D] of a decoder -> a teacher's features [B, M, F], token by token, and their loss.

    Instella's form (bae/ae_model.py of Instella-T2I), whose loss is not public: the weight is this project's
    choice. LaVIT's has a tanh in place of norm and ReLU.
    """

    features: int = 1024
    weight: float = 0.5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The predicted features, float32."""
        x = nn.Dense(x.shape[-1], dtype=self.dtype, name="hidden")(x)
        x = nn.relu(nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm")(x))
        return nn.Dense(self.features, dtype=self.dtype, name="features_out")(x).astype(jnp.float32)

    @nn.nowrap
    def loss(self, predicted: jax.Array, teacher: jax.Array) -> jax.Array:
        """weight * mean (1 - cosine)."""
        return self.weight * cosine_loss(predicted, jax.lax.stop_gradient(teacher))


def make_head(
    kind: type[nn.Module], given: nn.Module | Mapping[str, Any] | None, name: str, dtype: Any
) -> nn.Module | None:
    """A head, or that of the arguments that a config gives as a mapping; None for none. Raises UserError for
    anything else, and for arguments that a head doesn't have."""
    if given is None or isinstance(given, nn.Module):
        return given
    if not isinstance(given, Mapping):
        raise UserError(
            f"tokenizer.{name} {given!r}: give its arguments, e.g. dict(features=1024), or None"
        )
    return construct(kind, given, f"tokenizer.{name}", dtype=dtype)


def with_heads(arguments: Mapping[str, Any], **heads: type[nn.Module]) -> dict[str, Any]:
    """A tokenizer's arguments with its heads made (`make_head`), in the tokenizer's dtype."""
    dtype = arguments.get("dtype", jnp.float32)
    given = {name: arguments[name] for name in heads if name in arguments}
    return {**arguments} | {
        name: make_head(heads[name], head, name, dtype) for name, head in given.items()
    }
