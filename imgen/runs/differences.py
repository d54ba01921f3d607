"""By which fields two modules compute unlike things."""

import dataclasses
import re
from typing import Any

import flax.linen as nn

# Fields that say how a module is trained or computed, not what it makes of its parameters.
TRAINING = re.compile(r"(parent|name|dtype|remat|\w*dropout|\w*_weight|\w*init\w*)")
# Of what a tokenizer starts from: fields that change what its parameters mean and that no shape shows.
SILENT = ("groups", "image_range", "l2_norm", "legacy", "position_scale", "rope_pairing", "levels")


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """The fields by which two modules compute unlike things, as "decoder.groups 8, not 32"."""
    if not (isinstance(one, nn.Module) and type(one) is type(other)):
        return [] if one == other else [f"{where} {_short(one)}, not {_short(other)}".lstrip()]
    names = [f.name for f in dataclasses.fields(one) if not TRAINING.fullmatch(f.name)]
    return [
        found
        for name in names
        for found in differences(
            getattr(one, name), getattr(other, name), f"{where}.{name}".lstrip(".")
        )
    ]


def _short(value: Any) -> str:
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)
