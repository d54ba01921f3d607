"""Tokenizers for small models of our own: words seen in training, or bytes. No files of others, no packages.

An empty text is its end token alone, so that no text is without a token.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from imgen.conditioning.text.tokens import Tokens, pack
from imgen.errors import UserError

WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*|[^\w\s]|_")
PAD, END, UNKNOWN, SPECIAL = 0, 1, 2, 3  # SPECIAL: how many ids stand before the first word or byte


def split(text: str) -> list[tuple[str, int, int]]:
    """Cuts a text into (word in lower case, start, end): words, numbers and single marks; white space
    goes."""
    return [(m[0].lower(), m.start(), m.end()) for m in WORD.finditer(text)]


@dataclasses.dataclass(frozen=True)
class Words:
    """One id a word. words: in the order of their ids; any other word is id 2."""

    words: tuple[str, ...]
    length: int

    pad = PAD

    def __post_init__(self):
        if len(set(self.words)) < len(self.words):
            raise UserError("a vocabulary of words has one of them twice; leave it out once")

    @property
    def vocab(self) -> int:
        return SPECIAL + len(self.words)

    @property
    def specials(self) -> dict[str, int]:
        return {"pad": PAD, "end": END, "unknown": UNKNOWN}

    @cached_property
    def ids(self) -> dict[str, int]:
        return {word: SPECIAL + n for n, word in enumerate(self.words)}

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        pieces = ([(self.ids.get(w, UNKNOWN), a, b) for w, a, b in split(text)] for text in texts)
        return pack(pieces, length or self.length, PAD, end=[END])

    def unknown(self, text: str) -> list[str]:
        """Returns the words of a text that have no id of their own, for messages."""
        return [word for word, _, _ in split(text) if word not in self.ids]


def words_of(
    texts: Iterable[str], length: int, at_least: int = 1, most: int | None = None
) -> Words:
    """Collects the vocabulary of texts: words met `at_least` times, the most frequent `most`; in
    alphabetical order, so that the order of the texts plays no part. Raises UserError where no word is
    left."""
    counts = Counter(word for text in texts for word, _, _ in split(text))
    ranked = sorted((-n, word) for word, n in counts.items() if n >= at_least)[:most]
    if not ranked:
        raise UserError(
            f"no word occurs {at_least} times in the captions: are there captions at all?"
        )
    return Words(tuple(sorted(word for _, word in ranked)), length)


def save_words(path: str | Path, words: Words) -> None:
    """Writes a vocabulary as JSON."""
    Path(path).write_text(json.dumps({"words": words.words, "length": words.length}, indent=0))


def load_words(path: str | Path) -> Words:
    """Reads the vocabulary of a file of `save_words`. Raises UserError where it is none."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
        words, length = found["words"], found["length"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a vocabulary of words ({error}); train again") from error
    if not all(isinstance(word, str) for word in words) or not isinstance(length, int):
        raise UserError(f"{path}: not a vocabulary of words (no list of strings); train again")
    return Words(tuple(words), length)


@dataclasses.dataclass(frozen=True)
class Bytes:
    """One id a byte of UTF-8: no word is unknown. Upper and lower case differ."""

    length: int

    vocab = SPECIAL + 256
    pad = PAD

    @property
    def specials(self) -> dict[str, int]:
        return {"pad": PAD, "end": END}

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        return pack(map(_bytes, texts), length or self.length, PAD, end=[END])


def _bytes(text: str) -> list[tuple[int, int, int]]:
    """Cuts a text into bytes; lone surrogates, which UTF-8 has none for, become question marks."""
    return [
        (SPECIAL + byte, n, n + 1)
        for n, character in enumerate(text)
        for byte in character.encode("utf-8", "replace")
    ]
