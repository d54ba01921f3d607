"""CLIP's tokenizer: byte-level pair encoding of lower-cased words, by the package tokenizers.

Source: openai/CLIP, clip/simple_tokenizer.py and clip.py (`tokenize`). The vocabulary is a file of the
user's: OpenAI's bpe_simple_vocab_16e6.txt.gz, or a Hugging Face folder with vocab.json and merges.txt.

Differences from the official tokenizer: it mends text with the package ftfy where that is installed. Of what
ftfy does, the steps on single characters are done here, always (`clean`); mojibake is left as it is.
"""

import dataclasses
import functools
import gzip
import html
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, decoders, models, pre_tokenizers

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

WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|(?i:'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)

# What `clean` changes: ligatures and full-width forms, control characters, curled quotes.
COMPATIBLE = re.compile(
    "[\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\ufb00-\ufb06\u3000\uff01-\uffee]"
)
CONTROLS = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]")
STRAIGHT = str.maketrans(
    "\u02bc\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f", 5 * "'" + 4 * '"'
)


def clean(text: str) -> str:
    """Resolves HTML entities, mends characters as ftfy does, collapses white space, lowers the case."""
    text = CONTROLS.sub("", html.unescape(html.unescape(text)))
    text = COMPATIBLE.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    text = unicodedata.normalize("NFC", text.translate(STRAIGHT))
    return " ".join(text.split()).lower()


def words(text: str) -> list[str]:
    """Cuts a clean text into runs of letters, single numerals and runs of other characters, with contractions
    and special tokens whole; white space is dropped."""
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    return [word for word, _ in split.pre_tokenize_str(text)]


def numbered(merges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Numbers the tokens as OpenAI does: bytes (printable ones first), bytes that end a word, merges, start,
    end."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
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
        return [[n for word in words(clean(text)) for n in self._ids(word)] for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        """The clean text of ids, words a space apart, special tokens left out."""
        names = {n: token for token, n in self.ids.items() if token not in (START, END)}
        text = "".join(names.get(int(n), "") for n in ids)
        pieces = text.removesuffix(WORD_END).split(WORD_END)
        return " ".join(decoders.ByteLevel().decode([piece]) for piece in pieces)

    def _ids(self, word: str) -> list[int]:
        if word in (START, END):
            return [self.ids[word]]
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        [(symbols, _)] = as_bytes.pre_tokenize_str(word)
        return [token.id for token in self._model.tokenize(symbols)]

    @functools.cached_property
    def _model(self) -> models.BPE:
        return models.BPE(vocab=self.ids, merges=[*self.merges], end_of_word_suffix=WORD_END)


def load(path: str | Path | None) -> Tokenizer:
    """Reads the tokenizer of OpenAI's file, gzipped or not, or of a folder with merges.txt and vocab.json.

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
    """Reads a line of version, then a pair of symbols on each line."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : 1 + MERGES]
    pairs = [tuple(line.split()) for line in lines if line]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise ValueError("its lines do not hold two symbols each")
    return pairs
