"""Class labels and text as condition slots, as a context of every layer, or as a vector.

A conditioner is called with its batch of inputs and `null` [B] bool: where it is set, the sample gets the
null condition of classifier-free guidance. It returns a `Condition`.
"""

from typing import ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from imgen.conditioning.conditions import Condition, Conditions, Labels, sample_labels
from imgen.nn.mlp import normal_init


class Conditioner(Protocol):
    """num_slots: condition slots.   inputs: names of the arrays of a batch that it takes.

    gives: the fields of its `Condition` that are set, without those that say what is valid.
    """

    num_slots: int
    inputs: tuple[str, ...]
    gives: tuple[str, ...]

    def example(self, batch: int) -> dict[str, jax.Array]:
        """Returns inputs of the right shapes, to initialise with."""

    def default_conditions(self, num: int, class_balance: str, seed: int) -> Conditions | None:
        """Returns the conditions that pictures show and metrics draw; None where a model has none."""

    def __call__(self, cond: dict, null: jax.Array) -> Condition: ...


class NoDefaults:
    """Of text there are no conditions by default."""

    @nn.nowrap
    def default_conditions(self, num: int, class_balance: str, seed: int) -> None:
        return None


class ClassLabels(nn.Module):
    """A table row for each class and a last row for "no class", as a slot and as a vector.

    cond: {"label": [B] int}.   copies: equal slots (MAR's 64).   start: a learned slot before them (RAR).
    (LlamaGen `autoregressive/models/gpt.py`, as `TextFeatures`.)
    """

    num_classes: int
    width: int
    copies: int = 1
    start: bool = False
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    inputs: ClassVar[tuple[str, ...]] = ("label",)
    gives: ClassVar[tuple[str, ...]] = ("slots", "vector")

    @property
    def num_slots(self) -> int:
        return self.copies + self.start

    @nn.nowrap
    def default_conditions(self, num: int, class_balance: str, seed: int) -> Labels:
        return Labels(sample_labels(num, self.num_classes, class_balance, seed))

    @nn.nowrap
    def example(self, batch: int) -> dict[str, jax.Array]:
        return {"label": jnp.zeros(batch, jnp.int32)}

    @nn.compact
    def __call__(self, cond: dict, null: jax.Array) -> Condition:
        label = jnp.where(null, self.num_classes, cond["label"])
        table = nn.Embed(
            self.num_classes + 1,
            self.width,
            dtype=self.dtype,
            embedding_init=normal_init(self.init_std),
            name="table",
        )
        row = table(label)
        slots = jnp.repeat(row[:, None], self.copies, axis=1)
        if self.start:
            first = self.param("start", nn.initializers.zeros, (1, self.width)).astype(row.dtype)
            first = jnp.broadcast_to(first, (len(row), 1, self.width))
            slots = jnp.concatenate([first, slots], axis=1)
        return Condition(slots=slots, vector=row)


class TextFeatures(NoDefaults, nn.Module):
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

    inputs: ClassVar[tuple[str, ...]] = ("text", "text_mask")
    gives: ClassVar[tuple[str, ...]] = ("slots",)

    @nn.nowrap
    def example(self, batch: int) -> dict[str, jax.Array]:
        shape = (batch, self.num_slots)
        return {
            "text": jnp.zeros((*shape, self.text_width)),
            "text_mask": jnp.ones(shape, jnp.int32),
        }

    @nn.compact
    def __call__(self, cond: dict, null: jax.Array) -> Condition:
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
        return Condition(slots=h, valid=cond["text_mask"].astype(bool))


class TextTokens(NoDefaults, nn.Module):
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

    inputs: ClassVar[tuple[str, ...]] = ("tokens", "text_mask")
    gives: ClassVar[tuple[str, ...]] = ("slots",)

    @nn.nowrap
    def example(self, batch: int) -> dict[str, jax.Array]:
        shape = (batch, self.num_slots)
        return {"tokens": jnp.zeros(shape, jnp.int32), "text_mask": jnp.ones(shape, jnp.int32)}

    @nn.compact
    def __call__(self, cond: dict, null: jax.Array) -> Condition:
        table = nn.Embed(
            self.vocab,
            self.width,
            dtype=self.dtype,
            embedding_init=normal_init(self.init_std),
            name="table",
        )
        is_system = jnp.arange(self.num_slots) >= self.num_slots - self.system
        mask = cond["text_mask"].astype(bool) & (is_system | ~null[:, None])
        return Condition(slots=table(cond["tokens"]), valid=mask)


class LayerText(NoDefaults, nn.Module):
    """A language model's hidden states, one for each layer of the generator, and a learned first slot.

    cond: {"text": [B, L, C, R] float, left-padded, "text_mask": [B, C]}. The null condition is the empty
    text: nothing but the image is seen. (Instella-T2I: 16 layers of AMD-OLMo-1B, C 128, R 2048; a model
    with fewer layers repeats its last.)   num_slots: 1, or 0 where the model has no sequence to start.
    """

    width: int
    layers: int = 16
    context_slots: int = 128
    text_width: int = 2048
    init_std: float = 0.02
    dtype: jnp.dtype = jnp.float32

    num_slots: int = 1

    inputs: ClassVar[tuple[str, ...]] = ("text", "text_mask")
    gives: ClassVar[tuple[str, ...]] = ("slots", "context")

    @nn.nowrap
    def example(self, batch: int) -> dict[str, jax.Array]:
        return {
            "text": jnp.zeros((batch, self.layers, self.context_slots, self.text_width)),
            "text_mask": jnp.ones((batch, self.context_slots), jnp.int32),
        }

    @nn.compact
    def __call__(self, cond: dict, null: jax.Array) -> Condition:
        slots = None
        if self.num_slots:
            start = self.param("start", normal_init(self.init_std), (1, self.width))
            slots = jnp.broadcast_to(start.astype(self.dtype), (len(null), 1, self.width))
        mask = cond["text_mask"].astype(bool) & ~null[:, None]
        context = jnp.moveaxis(cond["text"], 1, 0)
        return Condition(slots=slots, context=context, context_valid=mask)
