"""A folder of image files: one sub-folder a class, or a captions file beside the images."""

import csv
import json
from pathlib import Path

import numpy as np

from imgen.data.source import Source, decode_image
from imgen.errors import UserError

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
CAPTION_FILES = ("captions.jsonl", "captions.csv")
SPLITS = (
    "train",
    "val",
    "validation",
    "test",
)  # sub-folders of these names are splits, not classes


def _class_folders(root: Path) -> tuple[list[str], list[int], tuple[str, ...]]:
    """Image paths, their labels and the class names; classes are sub-folders, sorted by name."""
    folders = sorted(d for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    if not folders:
        raise UserError(
            f"{root} has neither sub-folders (one a class) nor a captions file "
            f"({' or '.join(CAPTION_FILES)} with the columns image, caption and perhaps label)"
        )
    paths, labels = [], []
    for label, folder in enumerate(folders):
        found = sorted(str(p) for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
        if not found:
            raise UserError(f"class folder {folder} holds no image; fill it or remove it")
        paths += found
        labels += [label] * len(found)
    return paths, labels, tuple(folder.name for folder in folders)


def _rows(file: Path) -> list[dict]:
    with file.open(newline="", encoding="utf-8") as lines:
        if file.suffix == ".csv":
            return list(csv.DictReader(lines))
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as error:
                raise UserError(f"{file} line {number} is not JSON: {error.msg}") from error
        return rows


def _captioned(file: Path) -> tuple[list[str], list[str], list[int] | None, tuple[str, ...] | None]:
    """Image paths, captions, and labels with class names when the file has a column `label`."""
    rows = _rows(file)
    for number, row in enumerate(rows, 1):
        for field in ("image", "caption"):
            if not isinstance(row, dict) or not isinstance(row.get(field), str):
                raise UserError(f"{file}, entry {number}: the field {field!r} (text) is missing")
    paths = [str(file.parent / row["image"]) for row in rows]
    if paths and not Path(paths[0]).is_file():
        raise UserError(f"{file}: its first image, {paths[0]}, does not exist")
    captions = [row["caption"] for row in rows]
    if not all("label" in row for row in rows):
        return paths, captions, None, None
    names = tuple(sorted({str(row["label"]) for row in rows}))
    if all(name.isdecimal() for name in names):  # already class numbers
        labels = [int(row["label"]) for row in rows]
        return paths, captions, labels, tuple(str(n) for n in range(max(labels, default=0) + 1))
    number_of = {name: i for i, name in enumerate(names)}
    return paths, captions, [number_of[str(row["label"])] for row in rows], names


class Folder(Source):
    """The data source "folder".

    path: a folder of class folders, a folder with captions.jsonl or captions.csv, or such a file.
    split: if `path` has a sub-folder of that name, that is the split. Otherwise "test" is every
    `test_every`-th image in the order of the names, "train" the others and "all" all of them.
    """

    def __init__(self, split: str, *, path: str, test_every: int = 20):
        root = Path(path).expanduser()
        if not root.exists():
            raise UserError(f"there is no image folder {root}")
        has_split_folder = (root / split).is_dir()
        if has_split_folder:
            root = root / split
        elif there := [name for name in SPLITS if (root / name).is_dir()]:
            raise UserError(f"{root} has no split {split!r}; its folders are {', '.join(there)}")
        elif split not in ("train", "test", "all"):
            raise UserError(f"{root} has no sub-folder {split!r}; splits are train, test and all")
        files = [root, *(root / name for name in CAPTION_FILES)]
        file = next((f for f in files if f.is_file()), None)
        if file is None:
            self._captions = None
            paths, labels, self.class_names = _class_folders(root)
        else:
            paths, self._captions, labels, self.class_names = _captioned(file)
        self.captions = self._captions is not None
        self.num_classes = len(self.class_names) if self.class_names else None

        index = np.arange(len(paths))
        if not has_split_folder and split != "all":
            index = index[(index % test_every == 0) == (split == "test")]
        if not len(index):
            raise UserError(f"split {split!r} of {root} has no image")
        self.files = self._paths = paths
        self._index = index
        self._labels = np.array([0] * len(paths) if labels is None else labels, np.int32)
        self.name = str(root) if has_split_folder else f"{root}/{split}"

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> dict:
        row = self._index[index]
        path = self._paths[row]
        example = {"image": decode_image(path, path), "label": int(self._labels[row])}
        if self._captions is not None:
            example["caption"] = self._captions[row]
        return example
