"""The best checkpoint of a stage, by a metric of its evaluations, beside those that it resumes from."""

import dataclasses
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import jax

from imgen.errors import UserError
from imgen.training.checkpoint import Checkpointer
from imgen.training.task import State

log = logging.getLogger(__name__)
# What a model is drawn from and evaluated with: the average in place of the parameters, where there is one.
ITEMS = ("tokenizer",)


@dataclasses.dataclass(frozen=True)
class KeepBest:
    """metric: a value of the stage's evaluations, e.g. "loss" or "gfd/fd_cifar/1k". mode: "min" or "max"."""

    metric: str
    mode: str = "min"

    def __post_init__(self):
        if self.mode not in ("min", "max"):
            raise UserError(f"keep_best.mode {self.mode!r} is neither min nor max")

    def value(self, values: Mapping[str, float]) -> float | None:
        """The metric among the values of an evaluation, whose names begin with "val/"; None if it isn't."""
        return values.get("val/" + self.metric.removeprefix("val/"))


def best_dir(workdir: str | Path, stage: str) -> Path:
    return Path(workdir) / "checkpoints" / f"{stage}_best"


class Best:
    """Keeps the state of the best evaluation so far; a context manager.

    A run that resumes from before that step comes to it again: steps repeat exactly, and the same value is no
    better. With another config they don't, and the checkpoint of what will not be is removed. Where steps do
    not repeat exactly after all (other devices, say), what is better on the way takes its place.
    """

    def __init__(self, workdir: str | Path, stage: str, keep: KeepBest, start: int, meta: dict):
        """start: the step that training goes on from. meta: JSON to be saved with the checkpoint."""
        self._keep, self._meta, self._value = keep, meta, None
        self._checkpointer = Checkpointer(best_dir(workdir, stage), keep=1)
        if found := self._checkpointer.latest_meta():
            same = found.get("config") == meta.get("config")
            if found["step"] > start and not same:
                self._checkpointer.remove(found["step"])
            elif found["best"] | {"value": None} == dataclasses.asdict(keep) | {"value": None}:
                self._value = found["best"]["value"]

    def __enter__(self) -> "Best":
        return self

    def __exit__(self, *_) -> None:
        self._checkpointer.close()

    def beaten_by(self, values: Mapping[str, float]) -> bool:
        """Whether an evaluation is better than the best so far; it isn't where it lacks the metric, or where
        that is not finite."""
        value = self._keep.value(values)
        if value is None or not math.isfinite(value):
            return False
        if self._value is None:
            return True
        return value < self._value if self._keep.mode == "min" else value > self._value

    def save(self, step: int, state: State, values: Mapping[str, float]) -> None:
        """Puts a state in place of the best so far; on disk when this returns.

        A best of this step or a later one goes first: the newest is what is kept and read. A run that is
        killed then has none for a moment, and as it has not written the evaluation's row yet it comes to
        this evaluation again and saves it.
        """
        for later in self._checkpointer.steps():
            if later >= step:
                self._checkpointer.remove(later)
        average = "ema" if "ema" in state else "params"
        items = {name: state[name] for name in (average, *ITEMS) if name in state}
        self._value = self._keep.value(values)
        best = {**dataclasses.asdict(self._keep), "value": self._value}
        self._checkpointer.save(step, items, {**self._meta, "best": best})
        self._checkpointer.wait()
        if jax.process_index() == 0:
            log.info("step %d is the best by %s so far: %.4g", step, self._keep.metric, self._value)
