"""CLIP's text tower as a text encoder: its tokens after the last norm, up to the end token."""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax

from imgen.conditioning import clip_bpe
from imgen.conditioning.clip import TextTower
from imgen.conditioning.text.tokens import Tokens, pack


@dataclasses.dataclass(frozen=True)
class Pairs:
    """CLIP's tokenizer. It cleans texts, so that tokens have no place in them: all offsets are (0, 0)."""

    bpe: clip_bpe.Tokenizer
    length: int

    @property
    def vocab(self) -> int:
        return len(self.bpe.ids)

    @property
    def pad(self) -> int:
        return self.bpe.end

    @property
    def specials(self) -> dict[str, int]:
        return {"pad": self.bpe.end, "start": self.bpe.start, "end": self.bpe.end}

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        pieces = ([(i, 0, 0) for i in ids] for ids in self.bpe.encode(texts))
        return pack(pieces, length or self.length, self.pad, [self.bpe.start], [self.bpe.end])


class ClipText(nn.Module):
    """ids [B, T] int -> features [B, T, D]. Nobody sees what is behind the end, so no mask is needed."""

    tower: TextTower

    layers = None

    @property
    def width(self) -> int:
        return self.tower.width

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return self.tower(ids)[0]
