"""Small data sets on disk, and one in memory, for the data tests."""

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from imgen.data.source import BadExample, Source


def png(value: int | np.ndarray, size: int = 8) -> bytes:
    """A PNG file with this picture, or whose pixels all have this value."""
    file, blank = io.BytesIO(), np.zeros((size, size, 3), np.uint8)
    Image.fromarray(blank + np.asarray(value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write_tfds(
    data_dir: Path,
    name: str = "tiny",
    broken: tuple[int, ...] = (),
    size: int = 8,
    names: tuple[str, ...] = ("even", "odd"),
    images: Sequence[int | np.ndarray | bytes] = range(12),
    labels: Sequence[int] | None = None,
) -> None:
    """A TFDS data set: 12 training and 5 test images, image i of value i and class i modulo `names`.

    `broken`: indices whose bytes are no image. `images`: pictures, their values, or image files.
    `labels`: what is stored as labels. `names`: of classes; without any, labels are plain whole numbers.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=list(names))
            if names
            else tfds.features.Scalar(np.int64),
            "caption": tfds.features.Text(),
        }
    )
    serializer = ExampleSerializer(features.get_serialized_info())
    directory = data_dir / name / "1.0.0"
    directory.mkdir(parents=True)
    features.save_config(directory)
    splits = []
    for split, count in (("train", 12), ("test", 5)):
        file = directory / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(file), "group_size:1")
        for i in range(count):
            data = images[i] if isinstance(images[i], bytes) else png(images[i], size)
            image = io.BytesIO(b"no image" if i in broken else data)
            label = labels[i] if labels is not None else i % len(names)
            example = {"image": image, "label": label, "caption": f"the number {i}"}
            writer.write(serializer.serialize_example(features.encode_example(example)))
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        splits.append({"name": split, "shardLengths": [str(count)], "filepathTemplate": template})
    info = {"name": name, "version": "1.0.0", "fileFormat": "array_record", "splits": splits}
    (directory / "dataset_info.json").write_text(json.dumps(info))


class Numbers(Source):
    """Image i is filled with i; those listed in `bad` can't be read."""

    name = "numbers"

    def __init__(self, count: int, bad: tuple[int, ...] = (), size: int = 4):
        self.count, self.bad, self.size = count, bad, size

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise BadExample(f"number {index}", "it is on the list")
        return {"image": np.full((self.size, self.size, 3), index, np.uint8), "label": index}
