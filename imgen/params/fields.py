"""What a module's field has to do with its parameters, said where the field is declared.

dropout: float = training(0.0)      how it is trained or computed: two modules that differ by it alone
                                    make the same of the same parameters
groups: int = silent(32)            changes what the parameters mean, and no shape of theirs shows it
width: int = 512                    anything else: shapes show it
"""

import dataclasses
from typing import Any

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
