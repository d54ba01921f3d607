"""Detections of objects in images, and the files that store them.

A detector gives a list of `Detection` for an image, unfiltered and in its own order; the benchmarks
(`geneval`, `visor`, `t2i_compbench`) judge such lists and know nothing of detectors.

A file holds one record (a JSON object) an image, in one of three forms:
  JSON lines   one record a line, as GenEval's `results.jsonl`
  list         a JSON list of records, or {"cases": list}
  map          {image: record}, as VISOR's results files, or {"cases": map}
What a record holds is each benchmark's own; `imgen.evaluation.prompts.stored_detections` reads it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from imgen.errors import UserError, did_you_mean

# In COCO's order; a detector's class number is an index into it.
COCO_CLASSES = tuple(
    (
        "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,"
        "parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,"
        "handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,"
        "skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,"
        "sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,"
        "dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
        "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
    ).split(",")
)
KINDS = {str: "a string", dict: "an object", list: "a list", int: "a whole number", bool: "a bool"}
LARGEST_COORDINATE = 1e9


@dataclasses.dataclass(frozen=True)
class Detection:
    """One object that a detector found.

    box: x0, y0, x1, y1 in pixels, y downwards. color: the answer of a colour classifier, if it was asked.
    """

    name: str
    box: tuple[float, float, float, float]
    score: float
    color: str | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """One image of a file. where: for messages. image: its file name or key, None if it has none."""

    where: str
    image: str | None
    fields: Mapping[str, Any]


def read_records(path: str | Path) -> list[Record]:
    """The records of a file, in its order.

    Raises UserError for a file that can't be read, is empty or isn't JSON, and for an image given twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read detections {path} ({reason}); give a JSON file") from error
    if not text.strip():
        raise UserError(f"{path} is empty; give a file with one record an image")
    records = _from_lines(path, text) if _has_lines(path, text) else _from_document(path, text)
    if not records:
        raise UserError(f"{path} holds no records; give a file with one record an image")
    seen: dict[str, str] = {}
    for record in records:
        if record.image in seen:
            raise UserError(
                f"{record.where}: image {record.image!r} stands in {seen[record.image]} too; keep one"
            )
        if record.image is not None:
            seen[record.image] = record.where
    return records


def _has_lines(path: Path, text: str) -> bool:
    """Whether a file holds a record a line: it says so, or its first line is a whole object."""
    if path.suffix == ".jsonl":
        return True
    try:
        first = json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and (text.strip().count("\n") > 0 or "detections" in first)


def _from_lines(path: Path, text: str) -> list[Record]:
    return [
        _record(where, _parse(line, where))
        for number, line in enumerate(text.split("\n"), 1)
        if line.strip() and (where := f"{path}, line {number}")
    ]


def _from_document(path: Path, text: str) -> list[Record]:
    document = _parse(text, str(path))
    if isinstance(document, dict) and "cases" in document:
        document = document["cases"]
    if isinstance(document, dict):
        return [
            _record(f"{path}, image {key!r}", fields, key=key) for key, fields in document.items()
        ]
    if isinstance(document, list):
        return [_record(f"{path}, record {i}", fields) for i, fields in enumerate(document)]
    raise UserError(f"{path} holds {document!r:.40}; give a list, or one JSON object an image")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=lambda pairs: _without_repeats(pairs, where))
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}" if "\n" in text else f"column {error.colno}"
        raise UserError(f"{where} is not JSON ({error.msg}, {at}); mend or remove it") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not readable JSON ({error}); mend or remove it") from error


def _without_repeats(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{where}: {twice!r} stands twice in one object; keep one")
    return fields


def _record(where: str, fields: Any, key: str | None = None) -> Record:
    if not isinstance(fields, dict):
        raise UserError(f"{where} is {fields!r:.40}; a record is a JSON object")
    image = key if "filename" not in fields else field(fields, "filename", str, where)
    return Record(where, image, fields)


def field(fields: Any, name: str, kind: type, where: str) -> Any:
    """The value of a field that must be there and of a kind. Raises UserError."""
    if not isinstance(fields, dict):
        raise UserError(f"{where} is {fields!r:.40}; it must be an object with {name!r}")
    if name not in fields:
        there = ", ".join(fields) or "nothing"
        raise UserError(f"{where} lacks the field {name!r}; it has {there:.80}")
    value = fields[name]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {name} is {value!r:.40}; it must be {KINDS[kind]}")
    return value


def known(word: Any, words: Sequence[str], what: str, where: str) -> str:
    """A word, if it is one of `words`. Raises UserError."""
    if not isinstance(word, str):
        raise UserError(f"{where}: {word!r:.40} is no {what}; it must be a string")
    if word not in words:
        near = did_you_mean(word, words)
        listed = near or (f"use one of {', '.join(words)}" if len(words) < 20 else "see its list")
        raise UserError(f"{where}: {word!r} is no {what}; {listed}")
    return word


def detection_box(value: Any, where: str) -> tuple[float, float, float, float]:
    """A box [x0, y0, x1, y1] with x0 <= x1 and y0 <= y1. Raises UserError."""
    if not isinstance(value, list) or len(value) != 4:
        raise UserError(f"{where}: box is {value!r:.60}; it must be [x0, y0, x1, y1]")
    x0, y0, x1, y1 = (_number(v, "box", LARGEST_COORDINATE, where) for v in value)
    if x0 > x1 or y0 > y1:
        raise UserError(f"{where}: box {value} is out of order; it must be [x0, y0, x1, y1]")
    return x0, y0, x1, y1


def detection_score(value: Any, where: str) -> float:
    """A score between 0 and 1. Raises UserError."""
    score = _number(value, "score", LARGEST_COORDINATE, where)
    if not 0 <= score <= 1:
        raise UserError(f"{where}: score {score} is not between 0 and 1; give probabilities")
    return score


def _number(value: Any, name: str, largest: float, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not abs(value) <= largest:  # NaN is not
        raise UserError(f"{where}: {name} holds {value!r:.40}; it must hold finite numbers")
    return float(value)
