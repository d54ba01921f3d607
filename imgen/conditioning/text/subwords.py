"""Tokenizers of published encoders, read from their own files by the packages that made these files.

tokenizer.json or vocab.txt (BERT's WordPiece, a Llama-like model's byte-level BPE): package `tokenizers`.
spiece.model (T5), tokenizer.model (Llama): package `sentencepiece`. Both come with `pip install imgen[text]`.
vocab.json with merges.txt (CLIP): `imgen.conditioning.clip_bpe`.

What a file says of truncation and padding is not followed: all-MiniLM-L6-v2's says 128, its model takes 256.
"""

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgen.conditioning.text.tokens import Tokens, pack
from imgen.errors import UserError


@dataclasses.dataclass(frozen=True)
class Subwords:
    """A tokenizer of the package `tokenizers`. start, end: ids around every text."""

    backend: Any
    length: int
    pad: int
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    @property
    def vocab(self) -> int:
        return 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    @property
    def specials(self) -> dict[str, int]:
        around = {"start": self.start[:1], "end": self.end[-1:]}
        return {"pad": self.pad} | {name: ids[0] for name, ids in around.items() if ids}

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        encoded = self.backend.encode_batch(list(map(_readable, texts)), add_special_tokens=False)
        pieces = ([(i, a, b) for i, (a, b) in zip(e.ids, e.offsets, strict=True)] for e in encoded)
        return pack(pieces, length or self.length, self.pad, self.start, self.end)


@dataclasses.dataclass(frozen=True)
class SentencePiece:
    """A tokenizer of the package `sentencepiece`. start, end: ids around every text."""

    backend: Any
    length: int
    pad: int
    start: tuple[int, ...] = ()
    end: tuple[int, ...] = ()

    @property
    def vocab(self) -> int:
        return self.backend.vocab_size()

    @property
    def specials(self) -> dict[str, int]:
        return {"pad": self.pad, "unknown": self.backend.unk_id(), "end": self.backend.eos_id()}

    def __call__(self, texts: Sequence[str], length: int | None = None) -> Tokens:
        found = self.backend.encode(list(map(_readable, texts)), return_type="offset_mapping")
        pieces = (
            [(i, a, b) for i, (a, b) in zip(e["ids"], e["offsets"], strict=True)] for e in found
        )
        return pack(pieces, length or self.length, self.pad, self.start, self.end)


def _readable(text: str) -> str:
    """Drops lone surrogates, which neither package takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def wordpiece(vocab: Mapping[str, int], length: int, lower: bool = True) -> Subwords:
    """Builds BERT's tokenizer over a vocabulary (piece -> id): lower case and without accents unless
    lower=False.

    Raises UserError for a vocabulary without BERT's special tokens.
    """
    package = _package("tokenizers")
    lacking = [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if t not in vocab]
    if lacking:
        raise UserError(f"a WordPiece vocabulary without {lacking[0]} is not BERT's")
    backend = package.Tokenizer(
        package.models.WordPiece(dict(vocab), unk_token="[UNK]", max_input_chars_per_word=100)
    )
    backend.normalizer = package.normalizers.BertNormalizer(lowercase=lower)
    backend.pre_tokenizer = package.pre_tokenizers.BertPreTokenizer()
    backend.add_special_tokens(
        [t for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if t in vocab]
    )
    return Subwords(backend, length, vocab["[PAD]"], (vocab["[CLS]"],), (vocab["[SEP]"],))


def read_wordpiece(folder: str | Path, length: int) -> Subwords:
    """Reads BERT's tokenizer of a folder from tokenizer.json or vocab.txt. Raises UserError without
    either."""
    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        backend = _read_json(folder / "tokenizer.json")
        ids = [backend.token_to_id(name) for name in ("[PAD]", "[CLS]", "[SEP]")]
        if None in ids:
            raise UserError(
                f"{folder}/tokenizer.json has no [PAD], [CLS], [SEP]: it is of another model than BERT"
            )
        return Subwords(backend, length, ids[0], (ids[1],), (ids[2],))
    path = folder / "vocab.txt"
    try:
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{folder}: no readable tokenizer.json or vocab.txt of a BERT in it"
        ) from error
    lower = True
    if (folder / "tokenizer_config.json").is_file():
        lower = _json(folder / "tokenizer_config.json").get("do_lower_case", True)
    return wordpiece({line: n for n, line in enumerate(lines)}, length, lower)


def read_t5(folder: str | Path, length: int) -> SentencePiece | Subwords:
    """Reads T5's tokenizer of a folder: spiece.model, else its tokenizer.json. </s> ends every text."""
    folder = Path(folder)
    path = folder / "spiece.model"
    if path.is_file():
        return sentencepiece(path.read_bytes(), length, str(path))
    if not (folder / "tokenizer.json").is_file():
        raise UserError(f"{folder}: no spiece.model and no tokenizer.json of a T5 in it")
    backend = _read_json(folder / "tokenizer.json")
    pad, end = (backend.token_to_id(name) for name in ("<pad>", "</s>"))
    if pad is None or end is None:
        raise UserError(
            f"{folder}/tokenizer.json has no <pad> and </s>: it is of another model than T5"
        )
    return Subwords(backend, length, pad, end=(end,))


def sentencepiece(model: bytes, length: int, where: str = "spiece.model") -> SentencePiece:
    """Builds the tokenizer of a file's bytes, with its end token. Raises UserError where they are no
    model."""
    backend = _package("sentencepiece").SentencePieceProcessor()
    try:
        backend.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise UserError(f"{where}: not a SentencePiece model; copy it again") from error
    if backend.eos_id() < 0 or backend.pad_id() < 0:
        raise UserError(f"{where}: a SentencePiece model without pad and end is not T5's")
    return SentencePiece(backend, length, backend.pad_id(), end=(backend.eos_id(),))


def read_lm(folder: str | Path, length: int, config: Mapping[str, Any]) -> Subwords:
    """Reads a language model's tokenizer.json, with the start token that its own
    post-processing sets, if any; no end."""
    backend = _read_json(Path(folder) / "tokenizer.json")
    around = backend.encode("", add_special_tokens=True).ids
    pad = config.get("pad_token_id")
    end = config.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    return Subwords(
        backend, length, next((n for n in (pad, end) if n is not None), 0), tuple(around)
    )


def _read_json(path: Path) -> Any:
    try:
        backend = _package("tokenizers").Tokenizer.from_file(str(path))
    except UserError:
        raise
    except Exception as error:  # the package raises plain Exception for whatever a file lacks
        raise UserError(f"{path}: not a tokenizer's file ({error}); copy it again") from error
    backend.no_padding()
    backend.no_truncation()
    return backend


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); copy it again") from error


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"this text encoder needs the package {name}: pip install {name}"
        ) from error
