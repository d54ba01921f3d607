"""A frozen text encoder: texts in, features and their mask out."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np

from imgen.conditioning.text.tokens import Side, Tokenizer, to_left

CHUNK = 64  # texts of a call of the network


class TextEncoder(Protocol):
    """width: C of the features. layers: L where there is one feature for each layer of the encoder, else
    None. length: T. fingerprint: of the weights, for files of stored features."""

    name: str
    width: int
    layers: int | None
    length: int
    fingerprint: str

    def encode(self, texts: Sequence[str], side: Side = "right") -> tuple[np.ndarray, np.ndarray]:
        """Returns features float32 [B, T, C], or [B, L, T, C], and their mask [B, T] bool; features of
        padding, which stands behind the text or with side="left" in front of it, are 0."""
        ...


@dataclasses.dataclass(frozen=True)
class FrozenEncoder:
    """A `TextEncoder` of a tokenizer and a network with its parameters.

    module: called with ids [B, T] and mask [B, T]. A text's features do not depend on its neighbours nor on
    the padding, up to rounding: each call of the network is as wide as its longest text, in powers of two.
    """

    name: str
    tokenizer: Tokenizer
    module: nn.Module
    params: Any
    length: int
    fingerprint: str

    @property
    def width(self) -> int:
        return self.module.width

    @property
    def layers(self) -> int | None:
        return self.module.layers

    def encode(self, texts: Sequence[str], side: Side = "right") -> tuple[np.ndarray, np.ndarray]:
        """See `TextEncoder`."""
        tokens = self.tokenizer(texts, self.length)
        layers = () if self.layers is None else (self.layers,)
        features = np.zeros((len(texts), *layers, self.length, self.width), np.float32)
        order = np.argsort(tokens.mask.sum(1), kind="stable")
        for rows in (order[i : i + CHUNK] for i in range(0, len(order), CHUNK)):
            width = min(_power(int(tokens.mask[rows].sum(1).max())), self.length)
            fill = [(0, _power(len(rows)) - len(rows)), (0, 0)]
            ids, mask = (np.pad(x[rows, :width], fill, "edge") for x in (tokens.ids, tokens.mask))
            found = _features(self.module, self.params, ids, mask)[: len(rows)]
            shown = tokens.mask[rows, :width].reshape(len(rows), *(1,) * len(layers), width, 1)
            features[rows, ..., :width, :] = np.where(shown, np.asarray(found, np.float32), 0)
        return to_left(features, tokens.mask) if side == "left" else (features, tokens.mask)

    def padding(self) -> np.ndarray:
        """Returns what the encoder makes of the empty text where padding is seen, [T, C] or [L, T, C]: what
        models see behind their texts that were trained without a mask."""
        ids = self.tokenizer([""], self.length).ids
        return np.asarray(_features(self.module, self.params, ids, ids == ids)[0], np.float32)


def _power(n: int) -> int:
    """Returns the next power of two."""
    return 1 << max(n - 1, 0).bit_length()


@functools.partial(jax.jit, static_argnums=0)
def _features(module: nn.Module, params: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return module.apply({"params": params}, ids, mask)
