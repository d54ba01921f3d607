"""What a data source is: random access to examples that can be decoded, or say that they can't."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from imgen.data import preprocess
from imgen.errors import BadExample
from imgen.latents import LatentSpec


class Source(Protocol):
    """Random access to examples; picklable, because worker processes get a copy.

    An example is {"image": uint8 [H, W, 3], "label": int (0 when there are no classes)}, with "caption": str
    where `captions` is set, and perhaps "name": str for errors; of stored latents it is {"codes" or
    "moments": [V, *grid, ...], "label": int}.
    A new source subclasses this, says what differs from the defaults, and is an entry of `data.SOURCES`.
    """

    name: str
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None  # of class 0, 1, ...
    captions: bool = False
    stores_images: bool = True  # False: examples are latents that a tokenizer made
    spec: LatentSpec | None = None  # of stored latents
    tokenizer_hash: str | None = None  # whose they are
    teacher_shape: tuple[int, int] | None = None  # (M, F) where examples have "teacher"
    made_of: Sequence[Mapping[str, Any]] = ()  # `about` the images whose latents are stored
    files: Sequence[str] = ()  # that the examples are read from, where they are one file each
    settings: Mapping[str, Any] | None = (
        None  # what `make_source` made it of, with "name" and "split"
    )

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict:
        """Returns an example. Raises BadExample when it cannot be decoded."""
        ...

    def read_many(self, indices: Sequence[int]) -> list[dict | BadExample]:
        """Returns examples in the order of `indices`; in place of one that can't be decoded, why."""
        return [attempt(self.__getitem__, index) for index in indices]

    def image_sizes(self, num: int = 500) -> list[tuple[int, int]]:
        """Returns (height, width) of up to `num` evenly spaced images, of those that can be read."""
        found = self.read_many([*np.linspace(0, len(self) - 1, min(num, len(self))).astype(int)])
        return [e["image"].shape[:2] for e in found if not isinstance(e, BadExample)]

    def fingerprint(self) -> str | None:
        """Returns what another data set, or this one changed, differs in; None where that isn't known."""
        return None

    def about(self) -> dict[str, Any]:
        """Returns what it is, to be stored beside what is made of it: name, settings, count, hash."""
        settings = None if self.settings is None else dict(self.settings)
        return {
            "name": self.name,
            "settings": settings,
            "count": len(self),
            "hash": self.fingerprint(),
        }

    def train_transform(self, size: int, crop: str = "random", flip: bool = True) -> Callable:
        """Returns (example, rng) -> arrays to train on; size in pixels, crop of preprocess.CROPS."""
        return preprocess.TrainImages(size, crop, flip)

    def eval_transform(self, size: int, crop: str = "center") -> Callable:
        """Returns (example, None) -> arrays without augmentation; any crop but "none" is the centre's."""
        return preprocess.EvalImages(size, "none" if crop == "none" else "center")


def attempt(get: Callable[..., dict], *args) -> dict | BadExample:
    """Returns get(*args), or the BadExample that it raised."""
    try:
        return get(*args)
    except BadExample as bad:
        return bad
