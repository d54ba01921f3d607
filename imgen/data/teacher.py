"""Features of a frozen model beside the images of a data source: what tokenizers may be asked to predict.

One file of numpy, float [N, M, F]: M features of width F for each of the source's N images, in its order.
They belong to the images as they are stored, so training on them wants no flips and no random crops.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgen.data.source import BadExample, Source
from imgen.errors import UserError


class WithTeacher(Source):
    """A source whose examples also have "teacher": float32 [M, F]."""

    def __init__(self, source: Source, path: str | Path):
        self._source, self._path = source, str(path)
        self.name, self.num_classes = source.name, source.num_classes
        self.class_names, self.captions = source.class_names, source.captions
        self.stores_images, self.files = source.stores_images, source.files
        self.settings = source.settings
        features = self._open()
        if not isinstance(features, np.ndarray) or features.dtype.kind != "f":
            raise UserError(
                f"{path} is no array of floats: np.save features of ({len(source)}, M, F)"
            )
        if features.ndim != 3 or len(features) != len(source):
            raise UserError(
                f"{path} holds features of shape {features.shape}; for {source.name} it must be "
                f"({len(source)}, M, F)"
            )
        self.teacher_shape = features.shape[1:]

    def _open(self) -> np.ndarray:
        """Mapped into memory: worker processes share it, and only what is used is read."""
        try:
            return np.load(self._path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"cannot read teacher features from {self._path}: {error}") from error

    def fingerprint(self) -> str | None:
        return self._source.fingerprint()

    def image_sizes(self, num: int = 500) -> list[tuple[int, int]]:
        return self._source.image_sizes(num)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        (example,) = self.read_many([index])
        if isinstance(example, BadExample):
            raise example
        return example

    def read_many(self, indices: Sequence[int]) -> list[dict | BadExample]:
        features = self._open()
        return [
            example
            if isinstance(example, BadExample)
            else {**example, "teacher": np.asarray(features[index], np.float32)}
            for index, example in zip(indices, self._source.read_many(indices), strict=True)
        ]
