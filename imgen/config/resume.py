"""What may change when a run goes on."""

from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from imgen.errors import UserError

# A run is one model on one stream of data: on resume these may not change ...
FIXED = ("tokenizer", "generator", "data", "seed")
# ... but where and how fast the data is read may, and what only trades memory for time.
FREE = ("path", "data_dir", "num_workers", "max_bad_share", "num_examples", "remat")


def check_resume(old: FrozenConfigDict, new: FrozenConfigDict, workdir: str) -> list[str]:
    """Lists, in lines, what a resumed run changes. Raises UserError for another model or data."""
    before, after = _flat(old), _flat(new)
    changes = []
    for key in sorted(before.keys() | after.keys()):
        was, now = (side.get(key, "absent") for side in (before, after))
        if was == now:
            continue
        parts = key.split(".")
        if (parts[0] in FIXED or parts[-1] == "batch_size") and parts[-1] not in FREE:
            raise UserError(
                f"{workdir} was trained with {key}={was!r}, the config now says {now!r}; "
                "use another --workdir, or the old value"
            )
        changes.append(f"{key}: {was!r} -> {now!r}")
    return changes


def _flat(config: FrozenConfigDict, prefix: str = "") -> dict[str, Any]:
    """All values by their keys with dots."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | FrozenConfigDict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
