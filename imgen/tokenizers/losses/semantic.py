"""Semantic targets: codes from which a frozen teacher's features of the image can be told.

Source: SEED (AILab-CVC/SEED, blip2_qformer_codebook_all_image.py), whose codes predict what they are the
codes of (cosine, weight 2) and an image embedding (squared error, weight 0.5). `repa` has the projectors
that read a decoder's inner tokens. A config gives a projector as a mapping of its arguments.

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
from imgen.nn.vit import SHARDING as VIT
from imgen.nn.vit import ViT, repeat_tokens
from imgen.params.fields import training

NORM_EPS = 1e-5
SHARDING = (  # of `SemanticTarget`'s transformer; the rest is on every device
    *VIT,
    (r"(semantic_target|repa)/(values_in|hidden|linear_\d|features_out|out)/kernel$", ()),
    (r"semantic_target/(positions|query_tokens)$", ()),
)


def cosine_loss(predicted: jax.Array, teacher: jax.Array) -> jax.Array:
    """Returns the mean of 1 - cos over all but the last axis, in float32."""
    predicted, teacher = (x.astype(jnp.float32) for x in (predicted, teacher))

    def unit(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)

    return jnp.mean(1.0 - jnp.sum(unit(predicted) * unit(teacher), axis=-1))


def teacher_loss(
    name: str,
    projector: nn.Module | None,
    tokens: jax.Array,
    teacher: jax.Array | None,
    rng: jax.Array | None,
) -> dict[str, jax.Array]:
    """Returns {name: loss} of a projector; {} where it is off, and without a teacher outside training.

    tokens: what the projector reads, [B, K, D] or a grid [B, h, w, D], which is resized to that of the
        teacher.   teacher: features [B, M, F].   rng: of the pass, which is one of training where it has one.

    Raises UserError where they don't fit the projector, or where a training pass has none.
    """
    if projector is None:
        return {}
    if tokens.ndim == 4:
        tokens = _resized(tokens, teacher, name)
    predicted = projector(tokens)
    shape = predicted.shape[1:]
    if teacher is None:
        if rng is not None:
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
    return {name: projector.loss(predicted, teacher)}


def _resized(tokens: jax.Array, teacher: jax.Array | None, name: str) -> jax.Array:
    """Resizes a grid [B, h, w, D] to the teacher's, [B, M, D], float32 and bilinear where the teacher has
    another number of features, which must be that of a square then (UserError)."""
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
    """Predicts a teacher's features [B, M, F] from quantised values [B, K, C].

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
    token_weight: float = training(2.0)
    pooled_weight: float = training(0.0)
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Returns the predicted features, float32."""
        init = nn.initializers.normal(0.02)
        x = nn.Dense(self.width, dtype=self.dtype, name="values_in")(values)
        x = x + self.param("positions", init, (x.shape[1], self.width)).astype(x.dtype)
        queries = self.param("query_tokens", init, (self.queries, self.width))
        x = jnp.concatenate([x, repeat_tokens(queries, len(x), x.dtype)], axis=1)
        x = ViT(self.layers, self.heads, dtype=self.dtype, name="vit")(x)
        x = nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm")(x[:, -self.queries :])
        x = nn.Dense(self.features, dtype=self.dtype, name="features_out")(x)
        return x.astype(jnp.float32)

    @nn.nowrap
    def loss(self, predicted: jax.Array, teacher: jax.Array) -> jax.Array:
        """Returns the weighted sum of both terms."""
        teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32))
        loss = self.token_weight * cosine_loss(predicted, teacher)
        if self.pooled_weight:
            error = jnp.square(predicted.mean(1) - teacher.mean(1))
            loss += self.pooled_weight * jnp.mean(error)
        return loss


class FeatureTarget(nn.Module):
    """Predicts a teacher's features [B, M, F] from a decoder's tokens [B, M, D], one from each.

    Instella's form (bae/ae_model.py of Instella-T2I), whose loss is not public: the weight is this project's
    choice. LaVIT's has a tanh in place of norm and ReLU.
    """

    features: int = 1024
    weight: float = training(0.5)
    dtype: Any = training(jnp.float32)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the predicted features, float32."""
        x = nn.Dense(x.shape[-1], dtype=self.dtype, name="hidden")(x)
        x = nn.relu(nn.LayerNorm(NORM_EPS, dtype=self.dtype, name="norm")(x))
        return nn.Dense(self.features, dtype=self.dtype, name="features_out")(x).astype(jnp.float32)

    @nn.nowrap
    def loss(self, predicted: jax.Array, teacher: jax.Array) -> jax.Array:
        """Returns weight * mean (1 - cosine)."""
        return self.weight * cosine_loss(predicted, jax.lax.stop_gradient(teacher))


def make_projector(
    kind: type[nn.Module], given: nn.Module | Mapping[str, Any] | None, name: str, dtype: Any
) -> nn.Module | None:
    """Makes a projector of the arguments that a config gives as a mapping; a made one and None stay as they
    are.

    Raises UserError for anything else, and for arguments that a projector doesn't have.
    """
    if given is None or isinstance(given, nn.Module):
        return given
    if not isinstance(given, Mapping):
        raise UserError(
            f"tokenizer.{name} {given!r}: give its arguments, e.g. dict(features=1024), or None"
        )
    return construct(kind, given, f"tokenizer.{name}", dtype=dtype)
