"""Prompts that images are measured against: a file with a line for each image, through CLIP's text tower."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from imgen.conditioning.clip import CLIP
from imgen.conditioning.clip_bpe import Tokenizer
from imgen.errors import UserError
from imgen.evaluation.networks.clip_embeddings import Params, text_embeddings
from imgen.evaluation.networks.extractor import Extractor
from imgen.evaluation.prompts.clip_score import PERCENT, Texts


@dataclasses.dataclass(frozen=True)
class Prompts:
    """name: as results call them. prefix: put before each. scale: of the score."""

    name: str
    prompts: list[str]
    clip: tuple[CLIP, Params]
    tokenizer: Tokenizer
    prefix: str = ""
    scale: float = PERCENT

    def features(self, extractor: Extractor, needs: Iterable[str], batch_size: int) -> Texts:
        """Gives the embeddings of all prompts, in every process."""
        texts = [f"{self.prefix} {prompt}" for prompt in self.prompts]
        sharding = extractor.sharding
        found = text_embeddings(*self.clip, self.tokenizer, texts, sharding, batch_size)
        return Texts(self.name, len(texts), embeddings=found, prefix=self.prefix, scale=self.scale)


def read_prompts(path: str | None, num: int | None = None) -> list[str]:
    """Reads the first `num` lines of a file. Lines end in a line feed, a carriage return or both and in
    nothing else: U+2028, U+0085 and form feeds are part of a prompt.

    Raises UserError where it can't be read or a line is empty.
    """
    if path is None:
        raise UserError("clipscore needs --prompts FILE, a line for each image, in their order")
    try:
        text = Path(path).expanduser().read_text("utf-8-sig")
    except (OSError, ValueError) as e:  # ValueError: not UTF-8, or no path
        raise UserError(f"--prompts {path}: not a readable text file ({e})") from e
    lines = text.removesuffix("\n").split("\n")[:num]
    empty = [number for number, line in enumerate(lines, 1) if not line.strip()]
    if empty:
        raise UserError(f"{path}: line {empty[0]} holds no prompt; each image needs one")
    return lines
