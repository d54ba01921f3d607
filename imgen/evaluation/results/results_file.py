"""The file that keeps results: evaluation.json of a run.

What was measured by another protocol or with other settings (reference, guidance, checkpoint, weights) stays
beside the new; only what was measured in the same way is replaced. So each name has a list, the newest last:
{"results": {"gfid/adm/50k": [result, ...]}, "reconstruction": [result, ...]}.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger("imgen.evaluate")
SAME = ("protocol", "settings", "step")  # what tells results of one name from each other


def add(path: Path, result: dict[str, Any]) -> None:
    """Adds what `imgen.evaluate` prints to what is in a file. What can't be written is warned of: it has been
    printed."""
    try:
        text = path.read_text("utf-8") if path.is_file() else "{}"
        stored = json.loads(text, parse_constant=lambda _: None)  # NaN, which is no JSON
    except (OSError, ValueError) as error:
        log.warning("%s is not readable JSON (%s) and is written anew", path, error)
        stored = {}
    merged = _merged(_listed(stored if isinstance(stored, dict) else {}), result)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(json.dumps(merged, indent=2, allow_nan=False) + "\n", "utf-8")
        os.replace(unfinished, path)
    except OSError as error:
        log.warning("cannot write %s (%s); the result is only printed", path, error.strerror)


def _merged(stored: dict[str, Any], result: dict[str, Any]) -> dict[str, Any]:
    merged = dict(stored)
    for name, value in result.items():
        before = stored.get(name)
        if name == "results":
            merged[name] = _merged(before or {}, value)
        elif isinstance(value, dict):
            merged[name] = [*(r for r in before or () if _identity(r) != _identity(value)), value]
        else:
            merged[name] = value
    return merged


def _listed(stored: dict[str, Any]) -> dict[str, Any]:
    """What a file holds; older ones had a single result under each name."""
    return {
        name: _listed(value) if name == "results" else [value] if isinstance(value, dict) else value
        for name, value in stored.items()
    }


def _identity(result: dict[str, Any]) -> str:
    return json.dumps([result.get(key) for key in SAME], sort_keys=True)
