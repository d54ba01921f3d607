"""Prepared TFDS data sets in ArrayRecord files, read without TensorFlow."""

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imgen.data.fingerprint import hash_files
from imgen.data.image_files import colour, read_image
from imgen.data.source import BadExample, Source, attempt
from imgen.errors import UserError

log = logging.getLogger("imgen.data")


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
    """The data source "tfds": pictures as they are published, without turning them by EXIF.

    dataset: e.g. "cifar10", "name/config" or "name:1.0.0". split: any TFDS split expression, such
    as "train", "test" or "train[:1000]". data_dir: by default the environment's TFDS_DATA_DIR.
    num_classes: needed where `label` is a whole number and no ClassLabel, for labels 0 to num_classes - 1;
        0 leaves labels out. background: the colour behind transparent parts.
    The features `image`, `label` and `caption` (Text) are used where they exist.
    """

    def __init__(
        self,
        split: str,
        *,
        dataset: str,
        data_dir: str | None = None,
        num_classes: int | None = None,
        background: str = "white",
    ):
        self._background = colour(background)
        directory = _find(dataset, data_dir)
        # Imported here: it takes half a second that users of the other sources need not wait.
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder_from_directory(directory)
            features = dict(builder.info.features.items())
        except Exception as error:  # whatever its parsers of JSON and protocol buffers raise
            raise UserError(f"cannot read {directory}: {_line(error)}; prepare it again") from error
        if not isinstance(features.get("image"), tfds.features.Image):
            raise UserError(f"{directory} has no image feature 'image', only {', '.join(features)}")
        self.name, self.directory = f"{dataset}/{split}", directory
        self.num_classes, self.class_names = _classes(features.get("label"), num_classes, self.name)
        self.captions = isinstance(features.get("caption"), tfds.features.Text)
        self._records = _records(builder, split, dataset, directory)
        self._check_ends(split)

    def _check_ends(self, split: str) -> None:
        """The first and the last file are whole: costs nothing, and catches a broken copy."""
        try:
            ends = [self._records[end] for end in (0, len(self) - 1)]
        except Exception as error:
            raise UserError(
                f"cannot read {self.directory}, split {split!r}: {_line(error)}"
            ) from error
        if self.num_classes and all(int(record["label"]) == -1 for record in ends):
            log.warning(
                "%s has no labels: they are -1, as of a test split without answers", self.name
            )
            self.num_classes = self.class_names = None

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict:
        try:
            record = self._records[index]
        except Exception as error:  # ArrayRecord's C++ reader raises several unrelated types
            raise BadExample(self._name(index), _line(error)) from error
        return self._example(record, index)

    def read_many(self, indices: Sequence[int]) -> list[dict | BadExample]:
        """As `Source.read_many`. One call into ArrayRecord costs a tenth of one a record."""
        try:
            records = self._records.__getitems__(list(indices))
        except Exception:  # some record is broken: find out which
            return [attempt(self.__getitem__, index) for index in indices]
        return [attempt(self._example, *pair) for pair in zip(records, indices, strict=True)]

    def fingerprint(self) -> str:
        """As `Source.fingerprint`, of the data set's files and the split."""
        files = sorted(str(file) for file in self.directory.iterdir() if file.is_file())
        return hash_files(files, self.directory, self.name.encode())

    def _name(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def _example(self, record: dict, index: int) -> dict:
        name = self._name(index)
        image = read_image(record["image"], self._background, upright=False, name=name)
        example = {"image": image, "label": 0, "name": name}
        if self.num_classes:
            label = example["label"] = int(record["label"])
            if not 0 <= label < self.num_classes:
                raise UserError(
                    f"{name} has the label {label}, no class of 0 to {self.num_classes - 1}: choose a split "
                    "that is labelled, or leave labels out with data.source.num_classes=0"
                )
        if self.captions:
            try:
                example["caption"] = record["caption"].decode()
            except UnicodeDecodeError as error:
                raise BadExample(name, f"its caption: {error}") from error
        return example


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _classes(feature, stated: int | None, name: str) -> tuple[int | None, tuple[str, ...] | None]:
    """How many classes a label feature has, and their names. Raises UserError where nobody says it."""
    import tensorflow_datasets as tfds

    if feature is None or stated == 0:
        return None, None
    if isinstance(feature, tfds.features.ClassLabel):
        if stated not in (None, feature.num_classes):
            raise UserError(f"{name} has {feature.num_classes} classes, num_classes says {stated}")
        return feature.num_classes, tuple(feature.names)
    if feature.shape != () or not np.issubdtype(feature.np_dtype, np.integer):
        raise UserError(
            f"{name}: its label is {type(feature).__name__}, neither a ClassLabel nor a whole number: leave "
            "it out with data.source.num_classes=0"
        )
    if stated is None:
        raise UserError(
            f"{name}: its label is a whole number and no ClassLabel: say of how many classes with "
            "data.source.num_classes=N (0 leaves labels out)"
        )
    return stated, tuple(map(str, range(stated)))


def _records(builder, split: str, dataset: str, directory: Path) -> Sequence[dict]:
    """The records of a split. Raises UserError for one that is not there, wrongly written or empty."""
    import tensorflow_datasets as tfds

    splits = builder.info.splits
    try:
        parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(splits)
    except Exception as error:  # ValueError, AssertionError, KeyError
        raise UserError(
            f"{dataset!r} has no split {split!r}; it has {', '.join(splits)}"
        ) from error
    for part in parts:  # TFDS takes one that ends before it begins
        end = splits[part.splitname].num_examples if part.to is None else part.to
        if end <= (part.from_ or 0):
            raise UserError(f"split {split!r} of {dataset!r} is empty")
    try:
        return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    except NotImplementedError as error:
        raise UserError(
            f"{directory} is not in ArrayRecord files; prepare it with file_format=array_record"
        ) from error
    except Exception as error:
        raise UserError(f"cannot read {directory}, split {split!r}: {_line(error)}") from error
