"""Tables that people bring: .csv, .tsv and .jsonl files in the encodings and dialects of their programs.

What can be read in one way only is read; everything else is one line that names the place and what was found.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imgen.data.image_files import suffixes
from imgen.errors import UserError

KINDS = (".csv", ".tsv", ".jsonl")
BOMS = {  # longer ones first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Row:
    """One entry of a table. line: where it begins in the file. cells: by column, in lower case."""

    line: int
    cells: dict[str, Any]


def read_rows(file: Path, header: Sequence[str], encoding: str | None = None) -> list[Row]:
    """Reads a .csv, .tsv or .jsonl file.

    header: names of which a table's header must hold one; the delimiter (of DELIMITERS) is the one that finds
    it. encoding: of the text, by default what `decode` finds out.

    Raises UserError for text that can't be decoded, a row of another length than the header, a quote that is
    not closed and JSON that is none, with its line.
    """
    if file.suffix.lower() not in KINDS:
        raise UserError(f"{file} is no table that can be read: write {', '.join(KINDS)}")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    text = decode(data, str(file), encoding)
    rows = _json_rows if file.suffix.lower() == ".jsonl" else _csv_rows
    found = list(rows(file, text, header))
    if not found:
        raise UserError(f"{file} has no entries")
    return found


def decode(data: bytes, name: str, encoding: str | None = None) -> str:
    """Returns the text of a file: UTF-8, or UTF-16 and 32 that say so or can be nothing else.

    Older encodings can't be told apart, so they need `encoding`. Raises UserError, calling the file `name`.
    """
    chosen = encoding or next((e for bom, e in BOMS.items() if data.startswith(bom)), None)
    if chosen is None and b"\0" in data:  # half of UTF-16's bytes are 0 where the letters are Latin
        chosen = "utf-16-be" if 0 in data[0::2] and 0 not in data[1::2] else "utf-16-le"
        if chosen == "utf-16-le" and 0 in data[0::2]:
            raise UserError(f"{name} holds zero bytes: it is no text file")
    chosen = chosen or "utf-8"
    try:
        return data.decode(chosen)
    except LookupError:
        raise UserError(f"encoding {encoding!r} is unknown; there are utf-8, cp1252, ...") from None
    except UnicodeDecodeError as error:
        line, byte = data[: error.start].count(b"\n") + 1, data[error.start]
        raise UserError(
            f"{name} line {line} is not {chosen} (byte 0x{byte:02x}): save it as UTF-8, or name its "
            "encoding, e.g. data.source.encoding=cp1252"
        ) from None


def _json_rows(file: Path, text: str, header: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would split at U+2028 too
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or type(error).__name__
            raise UserError(f"{file} line {number} is not JSON: {reason}") from None
        if not isinstance(entry, dict):
            raise UserError(
                f"{file} line {number} is no JSON object with keys such as {header[0]!r}"
            )
        yield Row(number, _named(file, number, list(entry), list(entry.values())))


def _csv_rows(file: Path, text: str, header: Sequence[str]) -> Iterator[Row]:
    start, columns = 1, None
    first = re.match(r"sep=(.)\r?\n", text)  # Excel's way to name it
    if first:
        text, start = text[first.end() :], 2
    delimiter = first[1] if first else _delimiter(file, text, header)
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
    skipped = start - 1
    while True:
        line = reader.line_num + 1 + skipped
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{file} line {line}: {error}; is a quote not closed?") from None
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            columns = cells
            _named(file, line, columns, columns)
            continue
        if len(cells) != len(columns):
            raise UserError(
                f"{file} line {line} has {len(cells)} cells where the header has {len(columns)}: put cells "
                f"that hold {delimiter!r} in quotes"
            )
        if swallowed := _swallowed(cells, delimiter):
            raise UserError(
                f"{file} line {line}: a quoted cell goes on over {swallowed!r}, which looks like a row; is a "
                "quote not closed?"
            )
        yield Row(line, _named(file, line, columns, cells))


def _delimiter(file: Path, text: str, header: Sequence[str]) -> str:
    """The one delimiter with which the first line holds a column of `header`."""
    line = next((line for line in text.splitlines() if line.strip()), "")
    fitting = [d for d in DELIMITERS if any(_name(c) in header for c in _cells(line, d))]
    several = [d for d in fitting if len(_cells(line, d)) > 1]  # a column alone has no delimiter
    if len(several) == 1:
        return several[0]
    if fitting and not several:
        return fitting[0]
    found = ", ".join(_cells(line, several[0] if several else ","))[:200]
    raise UserError(
        f"{file}: its columns are {found or 'none'}; one of {', '.join(header)} is needed, between "
        "',', ';' or tabs"
    )


def _cells(line: str, delimiter: str) -> list[str]:
    return [cell.strip().strip('"') for cell in line.split(delimiter)]


def _name(column: str) -> str:
    return column.strip().lower()


def _named(file: Path, line: int, columns: Sequence[str], cells: Sequence) -> dict[str, Any]:
    names = [_name(column) for column in columns]
    if twice := {name for name in names if name and names.count(name) > 1}:
        raise UserError(f"{file} line {line} names {min(twice)!r} twice")
    return dict(zip(names, cells, strict=True))


def _swallowed(cells: Sequence[str], delimiter: str) -> str:
    """A line inside of a quoted cell that looks like a row of its own: it names an image."""
    for cell in cells:
        for inner in cell.splitlines()[1:]:
            pieces = _cells(inner, delimiter)
            if len(pieces) > 1 and any(Path(p).suffix.lower() in suffixes() for p in pieces):
                return inner[:60]
    return ""
