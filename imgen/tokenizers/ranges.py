"""What a config may say in a row."""

from collections.abc import Sequence
from typing import Any


def whole_numbers(value: Any, least: int, most: float = float("inf")) -> bool:
    """Says whether this is a row, which may be empty, of whole numbers from `least` to `most`."""
    return isinstance(value, Sequence) and all(
        isinstance(number, int) and least <= number <= most for number in value
    )
