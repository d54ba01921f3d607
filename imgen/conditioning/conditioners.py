"""Class labels and text as condition slots, or as a context of every layer.

A conditioner is called with its batch of inputs and `null` [B] bool: where it is set, the sample gets the
null condition of classifier-free guidance. It returns the slots' embeddings [B, T, D] and which of them
are real [B, T] bool, or None if all are. One with `context_slots` also has `context(cond, null)`: features
[L, B, C, R] that layer l turns into keys and values, and which of them are real [B, C].
"""

from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.nn.mlp import normal_init


class Conditioner(Protocol):
    """num_slots condition slots made from the arrays that `inputs` names in a batch."""

    num_slots: int
    context_slots: int
    inputs: tuple[str, ...]

    def example(self, batch: int) -> dict[str, jax.Array]:
        """Inputs of the right shapes, to initialise with."""

    def __call__(self, cond: dict, null: jax.Array) -> tuple[jax.Array, jax.Array | None]: ...


class ClassLabels(nn.Module):
    """One slot: a table row for each class and a last row for "no class". cond: {"label": [B] int}.

    (LlamaGen `autoregressive/models/gpt.py`, as `TextFeatures`.)
    """

    num_classes: int
    width: int
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    num_slots = 1
    context_slots = 0
    inputs = ("label",)

    @nn.nowrap
    def example(self, batch: int) -> dict[str, jax.Array]:
        return {"label": jnp.zeros(batch, jnp.int32)}

    @nn.compact
    def __call__(self, cond: dict, null: jax.Array) -> tuple[jax.Array, None]:
        label = jnp.where(null, self.num_classes, cond["label"])
        table = nn.Embed(
            self.num_classes + 1,
            self.width,
            dtype=self.dtype,
            embedding_init=normal_init(self.init_std),
            name="table",
        )
        return table(label)[:, None, :], None


class TextFeatures(nn.Module):
    """Left-padded text-encoder features through fc2(gelu_tanh(fc1 x)), without biases.

    cond: {"text": [B, T, C] float, "text_mask": [B, T], 1 on real tokens}. The null condition replaces
    the raw features by the fixed random `null_features` [T, C] and keeps the sample's own mask. The
    official code registers that tensor as a buffer: it is saved but never trained, so no gradient
    reaches it here, and the optimiser must leave it alone (`generator_task.FROZEN`).
    """

    width: int
    text_width: int = 2048
    num_slots: int = 120
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    context_slots = 0
    inputs = ("text", "text_mask")

    @nn.nowrap
    def example(self, batch: int) -> dict[str, jax.Array]:
        shape = (batch, self.num_slots)
        return {
            "text": jnp.zeros((*shape, self.text_width)),
            "text_mask": jnp.ones(shape, jnp.int32),
        }

    @nn.compact
    def __call__(self, cond: dict, null: jax.Array) -> tuple[jax.Array, jax.Array]:
        null_features = self.param(
            "null_features", normal_init(self.text_width**-0.5), (self.num_slots, self.text_width)
        )
        null_features = jax.lax.stop_gradient(null_features)
        features = jnp.where(null[:, None, None], null_features, cond["text"])
        h = nn.Dense(
            self.width,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=normal_init(self.init_std),
            name="fc1",
        )(features)
        h = nn.Dense(
            self.width,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=normal_init(self.init_std),
            name="fc2",
        )(nn.gelu(h, approximate=True))
        return h, cond["text_mask"].astype(bool)


class TextTokens(nn.Module):
    """A language model's tokens in the same sequence, left-padded; the last one starts the image.

    cond: {"tokens": [B, T] int, "text_mask": [B, T]}. The null condition keeps the last `system` tokens
    only. (Token-Shuffle, where an unguided prompt is the two tokens before the image.)
    """

    width: int
    vocab: int = 128_256
    num_slots: int = 256
    system: int = 2
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    context_slots = 0
    inputs = ("tokens", "text_mask")

    @nn.nowrap
    def example(self, batch: int) -> dict[str, jax.Array]:
        shape = (batch, self.num_slots)
        return {"tokens": jnp.zeros(shape, jnp.int32), "text_mask": jnp.ones(shape, jnp.int32)}

    @nn.compact
    def __call__(self, cond: dict, null: jax.Array) -> tuple[jax.Array, jax.Array]:
        table = nn.Embed(
            self.vocab,
            self.width,
            dtype=self.dtype,
            embedding_init=normal_init(self.init_std),
            name="table",
        )
        is_system = jnp.arange(self.num_slots) >= self.num_slots - self.system
        mask = cond["text_mask"].astype(bool) & (is_system | ~null[:, None])
        return table(cond["tokens"]), mask


class LayerText(nn.Module):
    """A language model's hidden states, one for each layer of the generator, and a learned first slot.

    cond: {"text": [B, L, C, R] float, left-padded, "text_mask": [B, C]}. The null condition is the empty
    text: nothing but the image is seen. (Instella-T2I: 16 layers of AMD-OLMo-1B, C 128, R 2048; a model
    with fewer layers repeats its last.)
    """

    width: int
    layers: int = 16
    context_slots: int = 128
    text_width: int = 2048
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    num_slots = 1
    inputs = ("text", "text_mask")

    @nn.nowrap
    def example(self, batch: int) -> dict[str, jax.Array]:
        return {
            "text": jnp.zeros((batch, self.layers, self.context_slots, self.text_width)),
            "text_mask": jnp.ones((batch, self.context_slots), jnp.int32),
        }

    @nn.compact
    def __call__(self, cond: dict, null: jax.Array) -> tuple[jax.Array, None]:
        start = self.param("start", normal_init(self.init_std), (1, self.width))
        return jnp.broadcast_to(start.astype(self.dtype), (len(null), 1, self.width)), None

    @nn.nowrap
    def context(self, cond: dict, null: jax.Array) -> tuple[jax.Array, jax.Array]:
        mask = cond["text_mask"].astype(bool) & ~null[:, None]
        return jnp.moveaxis(cond["text"], 1, 0), mask
