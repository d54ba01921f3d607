"""metrics.jsonl (always) and TensorBoard events (if tensorboardX is there), by process 0 only."""

import importlib.util
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax

# Fields that measure the machine: everything else in a row is the same however often a run is
# interrupted.
SPEED_FIELDS = ("images_per_second", "seconds")


def read_metrics(path: str | Path) -> list[dict]:
    """All complete rows of a metrics.jsonl; what a crash cut short or something else wrote is left out."""
    rows = []
    path = Path(path)
    for line in path.read_text("utf-8", "replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            if isinstance(row["stage"], str) and isinstance(row["step"], int):
                rows.append(row)
        except (ValueError, TypeError, KeyError):
            continue
    return rows


class MetricWriter:
    """Rows {"stage", "step", name: value...}; NaN and infinities are written as null."""

    def __init__(self, workdir: str | Path):
        self._workdir = Path(workdir)
        self._path = self._workdir / "metrics.jsonl"
        self._active = jax.process_index() == 0
        self._file = self._events = None

    def begin(self, stage: str, step: int) -> None:
        """To be called before a stage's first row: it goes on after `step`.

        Rows of this stage beyond `step` are cut: they come from after the checkpoint that the run
        resumed from and will be written again.
        """
        if not self._active:
            return
        self.close()
        kept = [r for r in read_metrics(self._path) if r["stage"] != stage or r["step"] <= step]
        rewritten = self._path.with_suffix(".tmp")
        rewritten.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(rewritten, self._path)
        self._file = self._path.open("a")
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            events = self._workdir / "tensorboard" / stage
            self._events = SummaryWriter(str(events), purge_step=step + 1)

    def has_evaluation(self, stage: str, step: int) -> bool:
        """Whether the row of an evaluation is in metrics.jsonl."""
        return any(
            row["stage"] == stage and row["step"] == step and any(k.startswith("val/") for k in row)
            for row in read_metrics(self._path)
        )

    def write(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        if not self._active:
            return
        values = {k: float(v) for k, v in values.items()}
        row = {k: v if math.isfinite(v) else None for k, v in values.items()}
        self._file.write(json.dumps({"stage": stage, "step": step, **row}) + "\n")
        self._file.flush()
        if self._events:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        for writer in (self._file, self._events):
            if writer:
                writer.close()
        self._file = self._events = None
