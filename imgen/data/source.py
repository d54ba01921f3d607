"""What a data source is: random access to examples that can be decoded, or say that they can't."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image


class BadExample(Exception):
    """One example that cannot be read. The loader goes on without it.

    name: what the user would look for, e.g. the file's path. reason: why it could not be read.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)
        self.name, self.reason = name, reason


class Source(Protocol):
    """Random access to examples; picklable, because worker processes get a copy.

    An example is {"image": uint8 [H, W, 3], "label": int (0 when there are no classes), and perhaps
    "caption": str}; stored latents have {"codes": int32 [V, *grid], "label": int}.
    """

    name: str
    num_classes: int | None
    class_names: tuple[str, ...] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict:
        """Raises BadExample when the example cannot be decoded."""
        ...


def attempt(get: Callable[..., dict], *args) -> dict | BadExample:
    """get(*args), or the BadExample that it raised."""
    try:
        return get(*args)
    except BadExample as bad:
        return bad


def read(source: Source, indices: Sequence[int]) -> list[dict | BadExample]:
    """Examples in the order of `indices`; in place of one that can't be decoded, why.

    A source may have its own `read_many` with this result, if reading many at once is faster.
    """
    if hasattr(source, "read_many"):
        return source.read_many(indices)
    return [attempt(source.__getitem__, index) for index in indices]


def decode_image(encoded: bytes | str | Path, name: str) -> np.ndarray:
    """Image file contents, or the path of one, -> uint8 RGB [H, W, 3]. Always by PIL, never cv2."""
    try:
        with Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded) as image:
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # PIL raises whatever a broken file makes its decoders stumble over
        raise BadExample(name, str(error) or type(error).__name__) from error
