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
    merged = _merged(stored if isinstance(stored, dict) else {}, result)
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
            merged[name] = _merged(before if isinstance(before, dict) else {}, value)
        elif isinstance(value, dict):
            merged[name] = _beside(before, value)
        else:
            merged[name] = value
    return merged


def _beside(before: Any, new: dict[str, Any]) -> list[dict[str, Any]]:
    """before: what a file holds under the name; older files hold a single result."""
    results = before if isinstance(before, list) else [before]
    others = [r for r in results if isinstance(r, dict) and _identity(r) != _identity(new)]
    return [*others, new]


def _identity(result: dict[str, Any]) -> str:
    return json.dumps([result.get(key) for key in SAME], sort_keys=True)
