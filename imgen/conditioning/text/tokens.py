"""What a tokenizer of texts gives: ids, which of them count, and where they stand in the text."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol

import numpy as np

from imgen.errors import UserError

Side = Literal["left", "right"]


@dataclasses.dataclass(frozen=True)
class Tokens:
    """ids [N, T] int32. mask [N, T] bool: which are the text's, start and end tokens included. offsets
    [N, T, 2] int32: the characters [start, end) of the text that a token stands for, (0, 0) for tokens that
    stand for none. cut [N] bool: whether the text was longer than there was room."""

    ids: np.ndarray
    mask: np.ndarray
    offsets: np.ndarray
    cut: np.ndarray

    def padded(self, length: int, pad: int, side: Side = "right") -> "Tokens":
        """Returns the same tokens in rows of `length`, at least as long as the longest text."""
        shift = length - self.mask.sum(1) if side == "left" else np.zeros(len(self.ids), int)
        to = np.arange(self.mask.sum(1).max(initial=0))
        rows, columns = np.nonzero(self.mask[:, : len(to)])
        ids = np.full((len(self.ids), length), pad, np.int32)
        mask, offsets = np.zeros(ids.shape, bool), np.zeros((*ids.shape, 2), np.int32)
        at = rows, columns + shift[rows]
        ids[at], mask[at], offsets[at] = (
            x[rows, columns] for x in (self.ids, self.mask, self.offsets)
        )
        return Tokens(ids, mask, offsets, self.cut)


class Tokenizer(Protocol):
    """Texts of any length, empty ones and any characters included, -> `Tokens` padded on the right.

    vocab: how many ids there are. length: the most tokens of a text unless the call says otherwise. pad: the
    id behind a text. specials: ids of the tokens that stand for no text, by their role ("end", "start", ...).
    """

    vocab: int
    length: int
    pad: int
    specials: dict[str, int]

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tokens: ...


Piece = tuple[int, int, int]  # id, start, end


def pack(
    texts: Iterable[Sequence[Piece]],
    length: int,
    pad: int,
    start: Sequence[int] = (),
    end: Sequence[int] = (),
) -> Tokens:
    """Builds rows of start, pieces, end, padding. Pieces that find no room between start and end are cut off.

    Raises UserError where there is no room for any piece.
    """
    room = length - len(start) - len(end)
    if room < 1:
        raise UserError(
            f"a text of {length} tokens has no room for words: at least {1 + length - room} are needed"
        )
    texts = list(texts)
    ids = np.full((len(texts), length), pad, np.int32)
    mask, offsets = np.zeros(ids.shape, bool), np.zeros((*ids.shape, 2), np.int32)
    for row, pieces in enumerate(texts):
        inside = np.array(pieces[:room], np.int32).reshape(-1, 3)
        tokens = [*start, *inside[:, 0], *end]
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, True
        offsets[row, len(start) : len(start) + len(inside)] = inside[:, 1:]
    cut = np.array([len(pieces) > room for pieces in texts], bool)
    return Tokens(ids, mask, offsets, cut)


def to_left(features: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moves padding, of features [N, ..., T, C] and their mask [N, T], from the right to the left, as
    zeros."""
    mask = np.asarray(mask, bool)
    order = np.argsort(mask, axis=1, kind="stable")  # padding first, the rest as it was
    index = order.reshape(len(mask), *(1,) * (features.ndim - 3), -1, 1)
    moved, mask = np.take_along_axis(features, index, -2), np.take_along_axis(mask, order, 1)
    return np.where(mask.reshape(*index.shape), moved, 0), mask


def words_at(tokens: Tokens, row: int, start: int, end: int) -> np.ndarray:
    """Marks, [T] bool, the tokens of one text that stand for any of its characters [start, end)."""
    a, b = tokens.offsets[row].T
    return tokens.mask[row] & (a < end) & (b > start) & (b > a)
