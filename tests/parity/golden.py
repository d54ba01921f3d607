"""Reading one golden file: vectors of an official implementation (`../shared/goldens/README.md`)."""

import json
from pathlib import Path

import numpy as np


class Golden:
    """One `.npz` or `.json` file. `case` names the test that reads it.

    clip_vocabulary: CLIP's vocabulary, minilm: the folder of all-MiniLM-L6-v2; the user's, None where there
    is none.
    """

    def __init__(self, path: Path, clip_vocabulary: str | None = None, minilm: str | None = None):
        self.path, self.stem = path, path.stem
        self.clip_vocabulary, self.minilm = clip_vocabulary, minilm
        if path.suffix == ".json":
            self.meta = json.loads(path.read_text())
            self._arrays = {}
        else:
            with np.load(path, allow_pickle=False) as arrays:
                self._arrays = {key: arrays[key] for key in arrays.files}
            self.meta = json.loads(str(self._arrays.pop("meta")))
        self.case: str = self.meta["case"]
        self.config: dict = self.meta.get("config", {})
        self.compared: set[str] = set()  # outputs that a test has asked for

    def params(self) -> dict[str, np.ndarray]:
        """Weights under their official state-dict keys."""
        return {
            k.removeprefix("params/"): v for k, v in self._arrays.items() if k.startswith("params/")
        }

    def input(self, name: str) -> np.ndarray:
        return self._arrays[f"in/{name}"]

    def out(self, name: str) -> np.ndarray:
        self.compared.add(name)
        return self._arrays[f"out/{name}"]

    def outs(self, prefix: str = "") -> dict[str, np.ndarray]:
        """All outputs below a prefix, without it."""
        full = f"out/{prefix}"
        found = {k.removeprefix(full): v for k, v in self._arrays.items() if k.startswith(full)}
        self.compared |= {prefix + name for name in found}
        return found

    def has(self, name: str) -> bool:
        """Whether an array such as "out/logits" is there."""
        return name in self._arrays

    def outputs(self) -> set[str]:
        """Names of all outputs."""
        return {k.removeprefix("out/") for k in self._arrays if k.startswith("out/")}
