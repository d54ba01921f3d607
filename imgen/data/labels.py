"""Class labels as people write them: whole numbers, or names."""

import math
import re
from collections.abc import Sequence
from typing import Any

from imgen.data.image_files import natural
from imgen.errors import UserError

MAX_CLASSES = 1_000_000  # a larger number is an ID, not a class
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]inf(inity)?", re.I)
MISSING = frozenset(("", "nan", "null", "n/a", "#n/a", "<na>", "nil"))


def parse_labels(values: Sequence[Any], places: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Returns class numbers and the classes' names.

    Whole numbers ("3", " 3", 3, "3.0") are class numbers already; there are classes up to the largest.
    Text is a name, and names are numbered in natural order. places: where each value stands, for errors.

    Raises UserError for everything else (missing, negative, broken numbers) and for numbers among names.
    """
    parsed = [_parse(value, place) for value, place in zip(values, places, strict=True)]
    kinds = [type(label) for label in parsed]
    if len(set(kinds)) > 1:
        rare = min((int, str), key=kinds.count)
        at = kinds.index(rare)
        other = "a name" if rare is int else "a whole number"
        raise UserError(f"{places[at]}: the label {values[at]!r} is not {other} as the others are")
    if kinds and kinds[0] is int:
        return parsed, tuple(map(str, range(max(parsed) + 1)))
    names = tuple(sorted(set(parsed), key=natural))
    number_of = {name: number for number, name in enumerate(names)}
    return [number_of[label] for label in parsed], names


def _parse(value: Any, place: str) -> int | str:
    if isinstance(value, str):
        value = _number_or_name(value.strip(), place)
        if isinstance(value, str):
            return value
    if value is None or isinstance(value, float) and math.isnan(value):
        raise UserError(f"{place}: the label is missing; fill it in or remove the entry")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{place}: the label {value!r} is neither a whole number nor a name")
    if value < 0 or not math.isfinite(value) or value != math.floor(value):
        raise UserError(f"{place}: the label {value} is no class: whole numbers from 0 are")
    if value >= MAX_CLASSES:
        raise UserError(
            f"{place}: the label {value:g} is no class: numbers go to {MAX_CLASSES - 1}"
        )
    return int(value)


def _number_or_name(text: str, place: str) -> float | str | None:
    if text.lower() in MISSING:
        return None
    if NUMBER.fullmatch(text):
        return float(text)
    if not any(letter.isalpha() for letter in text):  # "1,5", "-", "?"
        raise UserError(f"{place}: the label {text!r} is neither a whole number nor a name")
    return text
