"""Captions files: tables that name images with their captions, their labels or both."""

from collections.abc import Sequence
from pathlib import Path

from imgen.data.labels import parse_labels
from imgen.data.tables import Row, read_rows
from imgen.errors import UserError

TABLES = tuple(
    f"{stem}.{kind}" for stem in ("captions", "metadata") for kind in ("jsonl", "csv", "tsv")
)
# Columns, the first that is there; file_name and text are Hugging Face's.
IMAGE = ("image", "file_name", "filename", "file", "path", "image_path", "filepath")
CAPTION = ("caption", "text")
LABEL = ("label", "class")


def read_captions(
    file: Path, encoding: str | None = None
) -> tuple[list[Path], list[str] | None, list[int] | None, tuple[str, ...] | None]:
    """Reads image paths, captions, labels and class names; None for what no row has.

    Paths are relative to the file. A column that one row has, all must have. Raises UserError with the line.
    """
    rows = read_rows(file, IMAGE, encoding)
    names = [_text(file, row, IMAGE, empty=False) for row in rows]
    paths = [_path(file, name) for name in names]
    if not paths[0].is_file():
        raise UserError(f"{file}: its first image, {paths[0]}, does not exist")
    captions = labels = class_names = None
    if _has(rows, CAPTION):
        captions = [_text(file, row, CAPTION) for row in rows]
    if _has(rows, LABEL):
        places = [f"{file} line {row.line}" for row in rows]
        labels, class_names = parse_labels([_cell(row, LABEL) for row in rows], places)
    if captions is None and labels is None:
        raise UserError(
            f"{file} line {rows[0].line}: {_lacks(rows[0], CAPTION)}, and so is 'label'"
        )
    return paths, captions, labels, class_names


def _has(rows: Sequence[Row], names: Sequence[str]) -> bool:
    return any(name in row.cells for row in rows for name in names)


def _cell(row: Row, names: Sequence[str]):
    return next((row.cells[name] for name in names if name in row.cells), None)


def _lacks(row: Row, names: Sequence[str]) -> str:
    return f"the field {names[0]!r} is missing (there are {', '.join(row.cells) or 'none'})"


def _text(file: Path, row: Row, names: Sequence[str], empty: bool = True) -> str:
    found = _cell(row, names)
    if not isinstance(found, str) or not (empty or found.strip()):
        there = any(name in row.cells for name in names)
        wrong = f"the field {names[0]!r} is {found!r}, no text" if there else _lacks(row, names)
        raise UserError(f"{file} line {row.line}: {wrong}")
    return found


def _path(file: Path, name: str) -> Path:
    path = file.parent / name.strip()
    if "\\" in name and not path.is_file():  # written on Windows
        path = file.parent / name.strip().replace("\\", "/")
    return path
