"""Reading weight files as a flat dict of numpy arrays. Nothing here unpickles."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from imgen.errors import UserError


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """A .safetensors or .npz file -> {key: array}. Raises UserError if it can't be read."""
    path = Path(path)
    if path.suffix not in (".safetensors", ".npz"):
        raise UserError(f"{path}: weights are read from .safetensors or .npz files only")
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except Exception as e:  # the two formats raise unlike errors on a damaged file
        raise UserError(f"{path}: not a readable {path.suffix[1:]} file ({e})") from e
