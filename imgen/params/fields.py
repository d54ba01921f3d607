"""What a module's field has to do with its parameters, said where the field is declared.

dropout: float = training(0.0)      how it is trained or computed: two modules that differ by it alone
                                    make the same of the same parameters
groups: int = silent(32)            changes what the parameters mean, and no shape of theirs shows it
width: int = 512                    anything else: shapes show it
"""

import dataclasses
from typing import Any

import flax.linen as nn

TRAINING, SILENT = "training", "silent"
FLAX = ("parent", "name")  # fields that Linen gives every module


def training(default: Any = dataclasses.MISSING) -> Any:
    """Declares a field that says how a module is trained or computed: dropout, remat, dtype, loss weights."""
    return dataclasses.field(default=default, metadata={TRAINING: True})


def silent(default: Any = dataclasses.MISSING) -> Any:
    """Declares a field that changes what parameters mean without changing a shape of theirs."""
    return dataclasses.field(default=default, metadata={SILENT: True})


def is_training(field: dataclasses.Field) -> bool:
    """Whether a module's parameters mean the same whatever this field says."""
    return field.name in FLAX or field.metadata.get(TRAINING, False)


def is_silent(field: dataclasses.Field) -> bool:
    """Whether this field was declared by `silent`."""
    return field.metadata.get(SILENT, False)


def differences(one: Any, other: Any, only_silent: bool = False, where: str = "") -> list[str]:
    """Lists the fields by which two modules make unlike things of the same parameters, as "decoder.groups 8,
    not 32". only_silent: those declared by `silent`, where the parameters' shapes are compared besides."""
    if not (isinstance(one, nn.Module) and type(one) is type(other)):
        alike = one == other or only_silent
        return [] if alike else [f"{where} {_short(one)}, not {_short(other)}".lstrip()]
    found = []
    for field in dataclasses.fields(one):
        if not is_training(field):
            ours, theirs = getattr(one, field.name), getattr(other, field.name)
            path = f"{where}.{field.name}".lstrip(".")
            found += differences(ours, theirs, only_silent and not is_silent(field), path)
    return found


def _short(value: Any) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)
