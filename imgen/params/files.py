"""Parameters in a .safetensors file, by their paths: what `imgen.convert` writes.

The file says in its metadata which system they are of and which file they came from.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from imgen.errors import UserError
from imgen.params import paths


def write(path: str | Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, str]) -> None:
    """Arrays by name. The file appears only when it is whole.

    Raises UserError where it cannot be written.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.unfinished")
    arrays = {key: np.asarray(value, order="C") for key, value in arrays.items()}
    try:
        save_file(arrays, unfinished, dict(about))
        os.replace(unfinished, path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise UserError(f"cannot write {path} ({error})") from error


def read(path: str | Path, like: Any, system: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The parameters of `system`, nested dicts of numpy arrays with the shapes and dtypes of `like`; what the
    file says of them ("source_sha256": of the file that they came from).

    Raises UserError, in one line, where the file is missing, damaged, or not of that system.
    """
    path = Path(path)
    again = f"write it with imgen.convert --system {system}"
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; {again}")
    try:
        with safe_open(path, "np") as file:
            found = {key: file.get_tensor(key) for key in file.keys()}
            about = dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable .safetensors file ({error}); {again}") from error
    want = paths.flatten(like)
    for kind, keys in (("lacks", want.keys() - found), ("has an unknown", found.keys() - want)):
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(f"{path} {kind} {min(keys)}{more}: not {system} in our layout; {again}")
    for key, leaf in want.items():
        if (found[key].shape, found[key].dtype) != (tuple(leaf.shape), leaf.dtype):
            raise UserError(
                f"{path}: {key} is {found[key].dtype} {found[key].shape}, not {leaf.dtype} "
                f"{tuple(leaf.shape)}; {again}"
            )
    return paths.unflatten(found), about


def fingerprint(params: Any) -> str:
    """The first 8 hex digits of the SHA-256 of all parameters, in the order of their paths."""
    digest = hashlib.sha256()
    leaves = paths.flatten(params)
    for path in sorted(leaves):
        digest.update(np.ascontiguousarray(leaves[path]))
    return digest.hexdigest()[:8]
