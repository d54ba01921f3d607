"""Calling constructors with arguments that a user wrote."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from imgen.errors import UserError, did_you_mean


def construct(constructor: Callable, arguments: Mapping[str, Any], where: str, **given):
    """constructor(**given, **arguments).

    Raises UserError, naming the config's group `where` and the near name, for an argument that the
    constructor doesn't have or one that is missing.
    """
    parameters = inspect.signature(constructor).parameters
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    open_ended = inspect.Parameter.VAR_KEYWORD in kinds.values()
    names = [name for name, kind in kinds.items() if kind is not inspect.Parameter.VAR_KEYWORD]
    if inspect.isclass(constructor) and issubclass(constructor, nn.Module):
        names = [name for name in names if name not in ("name", "parent")]  # Flax's own
    for name in arguments:
        if name not in names and not open_ended:
            hint = did_you_mean(name, names) or f"there are {', '.join(names)}"
            raise UserError(f"{where} has no {name!r}; {hint}")
    try:
        inspect.signature(constructor).bind(**given, **arguments)
    except TypeError as error:
        raise UserError(f"{where}: {error}") from None
    return constructor(**given, **arguments)
