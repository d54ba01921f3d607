"""Semantic targets: codes from which a frozen teacher's features of the image can be told.

Source: SEED (AILab-CVC/SEED, blip2_qformer_codebook_all_image.py), whose codes predict what they are the
codes of (cosine, weight 2) and an image embedding (squared error, weight 0.5). REPA's projection of the
decoder's image tokens: Instella-T2I, bae/ae_model.py.

The teacher's features are data, float [B, M, F], computed by whoever makes the batches. Without them there
is no loss, and a training pass that should have them is an error.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.construct import construct
from imgen.errors import UserError
from imgen.nn.vit import ViT

NORM_EPS = 1e-5


def cosine_loss(predicted: jax.Array, teacher: jax.Array) -> jax.Array:
    """mean of 1 - cos over all but the last axis, in float32."""
    predicted, teacher = (x.astype(jnp.float32) for x in (predicted, teacher))

    def unit(x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)

    return jnp.mean(1.0 - jnp.sum(unit(predicted) * unit(teacher), axis=-1))


def check_teacher(
    teacher: jax.Array | None, shape: tuple[int, int], training: bool, head: str
) -> bool:
    """Whether features are there for `head`, which takes [B, *shape].

    Raises UserError where they have another shape, or where a training pass has none.
    """
    if teacher is None:
        if training:
            raise UserError(
                f"tokenizer.{head} is on, but the batch has no teacher features [B, {shape[0]}, "
                f"{shape[1]}]: store them with the data, or leave {head} out"
            )
        return False
    if teacher.shape[1:] != shape:
        raise UserError(
            f"tokenizer.{head} takes {shape[0]} teacher features of width {shape[1]} an image, but "
            f"the batch has {teacher.shape[1:]}: set {head} to what the data hold"
        )
    return True


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

    As REPA's head after an inner block it is Instella's (whose loss is not public: the weight is this
    project's choice); LaVIT's, after the last one, has a tanh in place of norm and ReLU.
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


def with_heads(arguments: Mapping[str, Any], **heads: type[nn.Module]) -> dict[str, Any]:
    """A tokenizer's arguments with the heads that a config gives as mappings built, in the tokenizer's dtype.
    Raises UserError for arguments that a head doesn't have."""
    dtype = arguments.get("dtype", jnp.float32)
    given = {name: arguments[name] for name in heads if isinstance(arguments.get(name), Mapping)}
    return {**arguments} | {
        name: construct(heads[name], head, f"tokenizer.{name}", dtype=dtype)
        for name, head in given.items()
    }
