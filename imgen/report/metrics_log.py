"""metrics.jsonl (always) and TensorBoard events (if tensorboardX is there), by process 0 only."""

import importlib.util
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path

import jax

log = logging.getLogger(__name__)

# Fields that measure the machine: everything else in a row is the same however often a run is
# interrupted.
SPEED_FIELDS = ("images_per_second", "seconds")


def read_metrics(path: str | Path) -> list[dict]:
    """Returns all rows of a metrics.jsonl, none if it is missing; what is no row is left out."""
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[list[dict], list[int]]:
    """Returns the rows, and the numbers of the lines that are none: cut short by a crash, or foreign."""
    rows, others = [], []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if _is_row(row):
            rows.append(row)
        elif line.strip():
            others.append(number)
    return rows, others


def _is_row(row) -> bool:
    if not isinstance(row, dict):
        return False
    values = {k: v for k, v in row.items() if k != "stage"}
    numbers = all(v is None or isinstance(v, int | float) for v in values.values())
    return isinstance(row.get("stage"), str) and isinstance(row.get("step"), int) and numbers


class MetricWriter:
    """Rows {"stage", "step", name: value...}; NaN and infinities are written as null."""

    def __init__(self, workdir: str | Path):
        self._workdir = Path(workdir)
        self._path = self._workdir / "metrics.jsonl"
        self._active = jax.process_index() == 0
        self._file = self._events = None

    def begin(self, stage: str, step: int) -> None:
        """Opens the file for a stage's rows after `step`; to be called before the first.

        Rows of this stage beyond `step` are cut: they come from after the checkpoint that the run
        resumed from and will be written again. Lines that are no rows are cut with a warning.
        """
        if not self._active:
            return
        self.close()
        rows, others = _read(self._path)
        if others:
            lines = ", ".join(map(str, others))
            log.warning("%s: left out what is no row of metrics, line %s", self._path, lines)
        kept = [row for row in rows if row["stage"] != stage or row["step"] <= step]
        rewritten = self._path.with_suffix(".tmp")
        rewritten.write_text("".join(json.dumps(row) + "\n" for row in kept))
        os.replace(rewritten, self._path)
        self._file = self._path.open("a")
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter

            events = self._workdir / "tensorboard" / stage
            self._events = SummaryWriter(str(events), purge_step=step + 1)

    def has_evaluation(self, stage: str, step: int) -> bool:
        """Returns whether the row of an evaluation is in metrics.jsonl."""
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
