"""Follow the Flow: edits of encoded texts between encoder and decoder, to see or mend what tokens carry.

Source: "Follow the Flow: On Information Flow Across Textual Tokens in Text-to-Image Models" (arXiv
2504.01137; tokeron/lens). A token that is taken out is either not seen any more (`pads` None: our models,
which never see padding) or replaced by what the encoder makes of padding at its place (`pads` [T, C] or [L,
T, C], of `FrozenEncoder.padding`: models that do).

All is numpy: features [B, T, C] or [B, L, T, C] and their mask [B, T], whose tokens are chosen by bool arrays
[B, T], as `tokens.words_at` gives them. The null condition of guidance is not edited.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from imgen.conditioning.text.tokens import Tokens, words_at


class Encoded(NamedTuple):
    """features [B, T, C] or [B, L, T, C]; mask [B, T] bool."""

    features: np.ndarray
    mask: np.ndarray


def keep(text: Encoded, chosen: np.ndarray, pads: np.ndarray | None = None) -> Encoded:
    """Keeps the chosen tokens alone: shows what they carry. Padding that is chosen stays padding."""
    return drop(text, text.mask & ~chosen, pads)


def drop(text: Encoded, chosen: np.ndarray, pads: np.ndarray | None = None) -> Encoded:
    """Takes the chosen tokens out. pads: [T, C] or [L, T, C], put in their places; None: they are masked."""
    chosen = chosen & text.mask
    spread = _spread(chosen, text.features)
    features = np.where(spread, 0 if pads is None else pads, text.features)
    return Encoded(features, text.mask & ~chosen if pads is None else text.mask)


def redundant(
    tokens: Tokens, words: Sequence[Sequence[tuple[int, int]]], which: str = "last"
) -> np.ndarray:
    """Marks [B, T] of each word (its characters [start, end), a list a text) all tokens but one.

    which: "last", where a causal encoder (CLIP, language models) gathers what a word means, or "first". What
    `drop` takes, for the paper's removal of redundant tokens.
    """
    extra = np.zeros_like(tokens.mask)
    for row, spans in enumerate(words):
        for start, end in spans:
            at = np.flatnonzero(words_at(tokens, row, start, end))
            extra[row, at[:-1] if which == "last" else at[1:]] = True
    return extra


def decontextualise(
    text: Encoded, chosen: np.ndarray, alone: Encoded, source: np.ndarray
) -> Encoded:
    """Replaces the chosen tokens' features by those of the same words encoded alone or in a clean prompt, so
    that they carry nothing of their neighbours.

    alone: the other texts' encoding; source [B, T'] bool: its tokens of these words, as many a text as are
    chosen. Raises ValueError where they are not.
    """
    features = text.features.copy()
    for row in range(len(features)):
        to, of = np.flatnonzero(chosen[row]), np.flatnonzero(source[row])
        if len(to) != len(of):
            raise ValueError(f"text {row}: {len(to)} tokens are to take the place of {len(of)}")
        features[row, ..., to, :] = alone.features[row, ..., of, :]
    return Encoded(features, text.mask)


def merge(text: Encoded, chosen: np.ndarray) -> Encoded:
    """Merges the chosen tokens of each text: their mean at the place of the first, the others not seen."""
    chosen = chosen & text.mask
    first = chosen & (np.cumsum(chosen, axis=1) == 1)
    weights = chosen / np.maximum(chosen.sum(1, keepdims=True), 1)
    mean = np.einsum("bt,b...tc->b...c", weights, text.features)[..., None, :]
    features = np.where(_spread(first, text.features), mean, text.features)
    return drop(Encoded(features.astype(text.features.dtype), text.mask), chosen & ~first)


def _spread(chosen: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Gives [B, T] a shape that broadcasts over features."""
    return chosen.reshape(len(chosen), *(1,) * (features.ndim - 3), -1, 1)
