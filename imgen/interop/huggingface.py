"""Folders as the Hugging Face hub has them: config.json beside safetensors, in one file or several."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from imgen.errors import UserError
from imgen.interop.files import read_arrays

INDEX = "model.safetensors.index.json"


def read_model_config(folder: str | Path) -> dict[str, Any]:
    """Reads the config.json of a folder, which names its model_type. Raises UserError where there is none."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; give one with a model's config.json, .safetensors and tokenizer"
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json: copy the model's whole folder")
    config = read_json(folder / "config.json")
    if "model_type" not in config:
        raise UserError(f"{folder}/config.json names no model_type: it is not that of a model")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises UserError where the file holds none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not readable JSON ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a JSON object; copy it again")
    return found


def read_state(
    folder: str | Path, wanted: Callable[[str], bool] = lambda key: True
) -> dict[str, np.ndarray]:
    """Reads the tensors of a folder by their keys, those that are `wanted`; of several files only those
    that are needed are read. Raises UserError for missing and unreadable files."""
    folder = Path(folder).expanduser()
    if (folder / INDEX).is_file():
        files = read_json(folder / INDEX).get("weight_map", {})
        files = {key: name for key, name in files.items() if wanted(key)}
        state = {}
        for name in sorted(set(files.values())):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} lacks {name}, which {INDEX} names: copy the whole folder"
                )
            found = read_arrays(folder / name)
            state |= {key: found[key] for key in found if files.get(key) == name}
        return state
    path = folder / "model.safetensors"
    if not path.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if len(found) != 1:
            names = ", ".join(p.name for p in found) or "no .safetensors file"
            raise UserError(f"{folder} has {names}: give a folder with model.safetensors")
        path = found[0]
    return {key: value for key, value in read_arrays(path).items() if wanted(key)}
