"""Whether a value that a user wrote is of the type, and in the range, that it is for."""

import math
import types
import typing
from typing import Any

import jax.numpy as jnp
import numpy as np

from imgen.errors import UserError

DTYPES = ("float32", "bfloat16")  # that models compute in
_WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a tuple such as (1, 2)",
    dict: "a group of keys",
    type(None): "None",
}


class OutOfRange(UserError):
    """A number that its constructor has no use for; `construct` adds the config's group."""


def check_type(where: str, value: Any, annotation: Any) -> None:
    """Raises UserError where `value` is not of the type of an annotation made of bool, int, float, str,
    tuple, dict and None; any other type is not looked at. A whole number will do for a float."""
    kinds = _kinds(annotation)
    if kinds and not any(_is_a(value, kind) for kind in kinds):
        words = " or ".join(_WORDS[kind] for kind in kinds)
        raise UserError(f"{where}={value!r}: {words} is needed")


def check_dtype(where: str, name: str) -> np.dtype:
    """Returns the type that models compute in. Raises UserError for any but DTYPES."""
    if name not in DTYPES:
        raise UserError(f"{where} {name!r} is neither {' nor '.join(DTYPES)}")
    return jnp.dtype(name)


def check_range(
    name: str,
    value: float,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    below: float = math.inf,
) -> None:
    """Raises OutOfRange unless least <= value <= most, value < below and it is finite."""
    if math.isfinite(value) and least <= value <= most and value < below:
        return
    bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"at most {most:g}"] * (
        most < math.inf
    )
    bounds += [f"below {below:g}"] * (below < math.inf)
    raise OutOfRange(f"{name} {value}: it must be {' and '.join(bounds) or 'finite'}")


def _kinds(annotation: Any) -> list[type]:
    """The plain types of an annotation, [] where it has any other."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    kinds = [
        kind if kind in _WORDS else typing.get_origin(kind)
        for kind in (typing.get_args(annotation) if union else (annotation,))
    ]
    return kinds if all(kind in _WORDS for kind in kinds) else []


def _is_a(value: Any, kind: type) -> bool:
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        return isinstance(value, int | float)
    return isinstance(value, tuple | list) if kind is tuple else isinstance(value, kind)
