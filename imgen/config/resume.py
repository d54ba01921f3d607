"""What may change when a run goes on."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, FrozenConfigDict

from imgen.config.files import from_json, to_json
from imgen.errors import UserError

# A run is one model on one stream of data: on resume these may not change ...
FIXED = ("tokenizer", "generator", "data", "seed")
# ... but where and how fast the data is read may, what only trades memory for time, and the type that is
# computed in: parameters are float32 whatever it is.
FREE = ("path", "data_dir", "num_workers", "max_bad_share", "num_examples", "remat", "dtype")


def differences(old: FrozenConfigDict, new: FrozenConfigDict) -> Iterator[tuple[str, Any, Any]]:
    """Goes through the keys whose values differ, with both; "absent" where there is none."""
    before, after = _flat(old), _flat(new)
    for key in sorted(before.keys() | after.keys()):
        was, now = (side.get(key, "absent") for side in (before, after))
        if was != now:
            yield key, was, now


def check_resume(old: FrozenConfigDict, new: FrozenConfigDict, workdir: str | Path) -> list[str]:
    """Lists, in lines, what a resumed run changes. Raises UserError for another model or data."""
    changes = []
    for key, was, now in differences(old, new):
        parts = key.split(".")
        if (parts[0] in FIXED or parts[-1] == "batch_size") and parts[-1] not in FREE:
            raise UserError(
                f"{workdir} was trained with {key}={was!r}, the config now says {now!r}; "
                "use another --workdir, or the old value"
            )
        changes.append(f"{key}: {was!r} -> {now!r}")
    return changes


def check_same(config: FrozenConfigDict) -> None:
    """Raises UserError, on all processes alike, where they were given unlike configs. Where the data is and
    how fast it is read may differ."""
    if jax.process_count() == 1:
        return
    text = np.frombuffer(to_json(config).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array(len(text)))
    padded = np.full(int(sizes.max()), ord(" "), np.uint8)
    padded[: len(text)] = text
    first, *others = (
        from_json(row.tobytes().decode()) for row in multihost_utils.process_allgather(padded)
    )
    for number, other in enumerate(others, 1):
        for key, ours, theirs in differences(first, other):
            if key.split(".")[-1] not in FREE:
                if jax.process_index() == 0:
                    time.sleep(2.0)  # its end would be the others', before they say why
                raise UserError(
                    f"process 0 was given {key}={ours!r}, process {number} {theirs!r}: start all with the "
                    "same config"
                )


def _flat(config: FrozenConfigDict, prefix: str = "") -> dict[str, Any]:
    """All values by their keys with dots."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | FrozenConfigDict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
