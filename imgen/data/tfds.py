"""Prepared TFDS data sets in ArrayRecord files, read without TensorFlow."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from imgen.data.source import BadExample, Source, attempt, decode_image
from imgen.errors import UserError


def _version(directory: Path) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", directory.name))


def _find(dataset: str, data_dir: str | None) -> Path:
    """The folder that holds dataset_info.json; of several versions, the newest."""
    given = data_dir or os.environ.get("TFDS_DATA_DIR")
    root = Path(given or "~/tensorflow_datasets").expanduser()
    if not root.is_dir():
        how = "" if given else " (the default, as TFDS_DATA_DIR is not set)"
        raise UserError(
            f"data set {dataset!r}: there is no folder {root}{how}; "
            "set TFDS_DATA_DIR or data_dir to a TFDS data directory"
        )
    # "name", "name:1.0.0", "name/config" and "name/config:1.0.0" are all paths below the root.
    top = root / dataset.replace(":", "/")
    candidates = [d for d in (top, *sorted(top.glob("*"))) if (d / "dataset_info.json").is_file()]
    if not candidates:
        there = ", ".join(sorted(d.name for d in root.iterdir() if d.is_dir())) or "nothing"
        raise UserError(
            f"no prepared data set {dataset!r} in {root} (there: {there}); "
            "set TFDS_DATA_DIR or data_dir, or prepare it with file_format=array_record"
        )
    return max(candidates, key=_version)


class Tfds(Source):
    """The data source "tfds".

    dataset: e.g. "cifar10", "name/config" or "name:1.0.0". split: any TFDS split expression, such
    as "train", "test" or "train[:1000]". data_dir: by default the environment's TFDS_DATA_DIR.
    The features `image`, `label` (a ClassLabel) and `caption` (Text) are used where they exist.
    """

    def __init__(self, split: str, *, dataset: str, data_dir: str | None = None):
        directory = _find(dataset, data_dir)
        # Imported here: it takes half a second that users of the other sources need not wait.
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(directory)
        features = dict(builder.info.features.items())
        if not isinstance(features.get("image"), tfds.features.Image):
            raise UserError(f"{directory} has no image feature 'image', only {', '.join(features)}")
        self.name, self.directory = f"{dataset}/{split}", directory
        self._has_label = isinstance(features.get("label"), tfds.features.ClassLabel)
        self.num_classes = features["label"].num_classes if self._has_label else None
        self.class_names = tuple(features["label"].names) if self._has_label else None
        self.captions = isinstance(features.get("caption"), tfds.features.Text)
        try:
            self._records = builder.as_data_source(
                split, decoders={"image": tfds.decode.SkipDecoding()}
            )
        except NotImplementedError as error:
            raise UserError(
                f"{directory} is not in ArrayRecord files; prepare it with file_format=array_record"
            ) from error
        except ValueError as error:
            splits = ", ".join(builder.info.splits)
            raise UserError(f"{dataset!r} has no split {split!r}; it has {splits}") from error
        if not len(self):
            raise UserError(f"split {split!r} of {dataset!r} is empty")
        try:  # the first and the last file are whole: costs nothing, and catches a broken copy
            for end in (0, len(self) - 1):
                self._records[end]
        except Exception as error:
            raise UserError(f"cannot read {directory}, split {split!r}: {error}") from error

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        try:
            record = self._records[index]
        except Exception as error:  # ArrayRecord's C++ reader raises several unrelated types
            raise BadExample(self._name(index), str(error)) from error
        return self._example(record, index)

    def read_many(self, indices: Sequence[int]) -> list[dict | BadExample]:
        """As `data.source.read`. One call into ArrayRecord costs a tenth of one a record."""
        try:
            records = self._records.__getitems__(list(indices))
        except Exception:  # some record is broken: find out which
            return [attempt(self.__getitem__, index) for index in indices]
        return [attempt(self._example, *pair) for pair in zip(records, indices, strict=True)]

    def _name(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def _example(self, record: dict, index: int) -> dict:
        example = {"image": decode_image(record["image"], self._name(index)), "label": 0}
        if self._has_label:
            example["label"] = int(record["label"])
        if self.captions:
            example["caption"] = record["caption"].decode()
        return example
