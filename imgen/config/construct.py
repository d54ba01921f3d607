"""Calling constructors with arguments that a user wrote."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from imgen.config.types import OutOfRange, check_type
from imgen.errors import UserError, did_you_mean

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def construct(constructor: Callable, arguments: Mapping[str, Any], where: str, **given):
    """constructor(**given, **arguments).

    Raises UserError, naming the config's group `where`, for an argument that the constructor doesn't have
    (with the near name), that is missing, or that has another type than is annotated.
    """
    parameters = inspect.signature(constructor).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    known = {name: p for name, p in parameters.items() if p.kind in _NAMED and name not in given}
    if inspect.isclass(constructor) and issubclass(constructor, nn.Module):
        known = {name: p for name, p in known.items() if name not in ("name", "parent")}  # Flax's
    for name, value in arguments.items():
        if name in known:
            check_type(f"{where}.{name}", value, known[name].annotation)
        elif not open_ended or name in given:
            hint = did_you_mean(name, list(known)) or f"there are {', '.join(known)}"
            raise UserError(f"{where} has no {name!r}; {hint}")
    for name, parameter in known.items():
        if parameter.default is inspect.Parameter.empty and name not in arguments:
            raise UserError(f"{where} lacks {name!r}")
    try:
        return constructor(**given, **arguments)
    except OutOfRange as error:
        raise UserError(f"{where}.{error}") from None
