"""What a file of samples says of how they were drawn: `protocol` in the .npz that imgen.sample writes.

A JSON string array of {"protocol": fields of `records.Protocol`, "settings": more}.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

KEY = "protocol"
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".webp", ".avif", ".heic", ".heif")
FIELDS = {"class_balance": str, "guidance": str, "steps": int}


def drawn(protocol: dict[str, Any], settings: dict[str, Any]) -> np.ndarray:
    """Makes the array to be written under KEY. protocol: FIELDS, None where unknown."""
    return np.array(json.dumps({"protocol": protocol, "settings": settings}))


def drawn_by(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads (fields of the protocol, settings) of a file of samples; both empty where it doesn't tell."""
    try:
        with np.load(Path(path).expanduser(), allow_pickle=False) as arrays:
            found = json.loads(str(arrays[KEY])) if KEY in arrays.files else {}
        protocol, settings = found.get("protocol", {}), found.get("settings", {})
        known = {k: protocol[k] for k, kind in FIELDS.items() if type(protocol.get(k)) is kind}
        return known, dict(settings)
    except (
        Exception
    ):  # of another program, or damaged: zip, zlib, numpy and json raise unlike errors
        return {}, {}


def lossy(files: Iterable[str | Path]) -> int:
    """Counts the files of formats that lose detail, which a metric sees: samples are best kept as PNG."""
    return sum(Path(file).suffix.lower() in LOSSY for file in files)
