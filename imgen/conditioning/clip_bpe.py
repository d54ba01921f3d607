"""CLIP's tokenizer: byte-level pair encoding of lower-cased words. Pure Python.

Source: openai/CLIP, clip/simple_tokenizer.py and clip.py (`tokenize`). The vocabulary is a file of the
user's: OpenAI's bpe_simple_vocab_16e6.txt.gz, or a Hugging Face folder with vocab.json and merges.txt.

Differences from the official tokenizer: it mends text with the package ftfy where that is installed. Of what
ftfy does, the steps on single characters are done here, always (`clean`); mojibake is left as it is. What is
a letter or a number follows Python's Unicode tables instead of those of the package regex.
"""

import dataclasses
import gzip
import html
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from imgen.errors import UserError

LENGTH = 77
MERGES = 49152 - 256 - 2  # lines of OpenAI's file that are used; it has more
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
WHERE = (
    "take bpe_simple_vocab_16e6.txt.gz from github.com/openai/CLIP (folder clip; the wheel of the package "
    "open_clip_torch has it too), or vocab.json and merges.txt of openai/clip-vit-base-patch32 from the "
    "Hugging Face hub"
)

# Never cut, nor joined with what stands beside them.
WHOLE = re.compile(rf"{re.escape(START)}|{re.escape(END)}|'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE)

# What `clean` changes: ligatures and full-width forms, control characters, curled quotes.
COMPATIBLE = re.compile(
    "[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06\u3000\uff01-\uffee]"
)
CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
STRAIGHT = str.maketrans(
    "\u02bc\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f", 5 * "'" + 4 * '"'
)


def clean(text: str) -> str:
    """HTML entities resolved, characters mended as ftfy does, white space collapsed, lower case."""
    text = CONTROLS.sub("", html.unescape(html.unescape(text)))
    text = COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    text = unicodedata.normalize("NFC", text.translate(STRAIGHT))
    return " ".join(text.split()).lower()


def words(text: str) -> Iterator[str]:
    """Cuts a clean text into runs of letters, single numerals and runs of other characters, with contractions
    and special tokens whole; white space is dropped."""
    at = 0
    while at < len(text):
        whole, kind, end = WHOLE.match(text, at), _kind(text[at]), at + 1
        if whole:
            end = whole.end()
        elif kind in ("letter", "other"):
            while end < len(text) and _kind(text[end]) == kind:
                end += 1
        if whole or kind != "space":
            yield text[at:end]
        at = end


def _kind(character: str) -> str:
    if character.isspace():
        return "space"
    if character.isalpha():
        return "letter"
    return "number" if unicodedata.category(character)[0] == "N" else "other"


def byte_symbols() -> list[str]:
    """How vocabulary files write each byte: as itself where that is printable in Latin-1, else as one of the
    characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)]
    printable += range(ord("®"), ord("ÿ") + 1)
    others = [byte for byte in range(256) if byte not in printable]
    symbols = dict(zip(printable, map(chr, printable), strict=True))
    symbols |= {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [symbols[byte] for byte in range(256)]


def numbered(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """OpenAI's numbering: bytes (printable ones first), bytes that end a word, merges, start, end."""
    symbols = sorted(byte_symbols())
    tokens = [*symbols, *(symbol + WORD_END for symbol in symbols)]
    tokens += ["".join(pair) for pair in merges]
    return {token: n for n, token in enumerate([*tokens, START, END])}


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """merges: pairs of symbols, those joined first in front. ids: number of each token."""

    merges: Sequence[tuple[str, str]]
    ids: dict[str, int]

    @property
    def start(self) -> int:
        return self.ids[START]

    @property
    def end(self) -> int:
        return self.ids[END]

    def __call__(
        self, texts: Sequence[str], length: int = LENGTH, pad: int | None = None
    ) -> np.ndarray:
        """int32 [N, length]: start, text, end, padding. A text that is too long is cut before the end.

        pad: 0 as in OpenAI's code, the end token as in Hugging Face's if None. No feature of the text
        depends on it.
        """
        ids = np.full((len(texts), length), self.end if pad is None else pad, np.int32)
        for row, tokens in zip(ids, self.encode(texts), strict=True):
            tokens = [self.start, *tokens[: length - 2], self.end]
            row[: len(tokens)] = tokens
        return ids

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without start and end, of any number."""
        ranks = {pair: n for n, pair in enumerate(self.merges)}
        symbols, known = byte_symbols(), {START: [self.start], END: [self.end]}

        def tokens(word: str) -> list[int]:
            if word not in known:
                parts = [symbols[byte] for byte in word.encode("utf-8")]
                parts[-1] += WORD_END
                known[word] = [self.ids[part] for part in join(parts, ranks)]
            return known[word]

        return [[n for word in words(clean(text)) for n in tokens(word)] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The clean text of ids, words a space apart, special tokens left out."""
        names = {n: token for token, n in self.ids.items() if token not in (START, END)}
        text = "".join(names.get(int(n), "") for n in ids)
        value = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        pieces = text.removesuffix(WORD_END).split(WORD_END)
        return " ".join(bytes(map(value.get, p)).decode("utf-8", "replace") for p in pieces)


def join(parts: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    """Joins neighbours, everywhere the pair of the lowest rank first, until no pair has one."""
    while len(parts) > 1:
        pair = min(zip(parts, parts[1:], strict=False), key=lambda p: ranks.get(p, len(ranks)))
        if pair not in ranks:
            break
        joined, at = [], 0
        while at < len(parts):
            size = 2 if tuple(parts[at : at + 2]) == pair else 1
            joined.append("".join(parts[at : at + size]))
            at += size
        parts = joined
    return parts


def load(path: str | Path | None) -> Tokenizer:
    """The tokenizer of OpenAI's file, gzipped or not, or of a folder with merges.txt and vocab.json.

    Raises UserError where the file is missing or not of that kind, with where to find it.
    """
    path = None if path is None else Path(path).expanduser()
    if path is None or not path.exists():
        missing = (
            "no vocabulary of CLIP is named" if path is None else f"{path}: no such vocabulary"
        )
        raise UserError(f"{missing}; {WHERE}")
    try:
        if not path.is_dir():
            merges = _read_merges(path)
            return Tokenizer(merges, numbered(merges))
        merges = _read_merges(path / "merges.txt")
        ids = json.loads((path / "vocab.json").read_text("utf-8"))
    except (OSError, EOFError, ValueError) as e:
        raise UserError(f"{path}: not a vocabulary of CLIP ({e}); {WHERE}") from e
    needed = numbered(merges)
    lacking = [token for token in needed if token not in ids]
    if lacking:
        raise UserError(f"{path}/vocab.json lacks {lacking[0]!r}, which merges.txt makes; {WHERE}")
    return Tokenizer(merges, ids)


def _read_merges(path: Path) -> list[tuple[str, str]]:
    """A line of version, then a pair of symbols on each line."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : 1 + MERGES]
    pairs = [tuple(line.split()) for line in lines if line]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError("its lines do not hold two symbols each")
    return pairs
