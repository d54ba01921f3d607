"""One thing to train, and what is due at which of its steps."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from imgen.config.types import check_range
from imgen.training.best import KeepBest
from imgen.training.evaluator import Evaluator
from imgen.training.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long to train, and how often to do what. Every `*_every` counts steps; 0: only after the last one.

    batch_size: global.   keep, keep_every: see Checkpointer.
    keep_best: by which metric of the evaluations the best state is kept besides, if any.
    """

    steps: int
    batch_size: int
    log_every: int = 50
    eval_every: int = 0
    checkpoint_every: int = 0
    visualize_every: int = 0
    keep: int = 2
    keep_every: int | None = None
    keep_best: KeepBest | None = None

    def __post_init__(self):
        least = dict(steps=1, batch_size=1, keep=1, log_every=0, eval_every=0, checkpoint_every=0)
        for name, bound in (least | dict(visualize_every=0)).items():
            check_range(name, getattr(self, name), bound)
        check_range("keep_every", self.keep_every or 0, 0)

    def due(self, step: int, every: int) -> bool:
        """Whether what is done every so many steps, and after the last one, is done now."""
        return step == self.steps or (every > 0 and step % every == 0)

    def fields(self) -> dict[str, Any]:
        """The settings by name, as they are."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(LoopSettings)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage(LoopSettings):
    """One thing to train.

    make_train: first step -> this process's batches from that step on; a batch depends on nothing
      but its step, which is what makes a resumed run exact.
    make_eval: () -> this process's evaluation batches, equally many on every process; None: no
      evaluation. Its first batch is also the one that is visualised, or that of `make_pictures`.
    """

    name: str
    task: Task
    make_train: Callable[[int], Iterator[dict[str, np.ndarray]]]
    make_eval: Callable[[], Iterator[dict[str, np.ndarray]]] | None
    evaluators: tuple[Evaluator, ...] = ()
    make_pictures: Callable[[], Iterator[dict[str, np.ndarray]]] | None = None

    def shows(self, step: int) -> bool:
        """Whether pictures are drawn after a step."""
        return bool(self.make_eval) and self.due(step, self.visualize_every)

    def measures_held_out(self, step: int) -> bool:
        return bool(self.make_eval) and self.due(step, self.eval_every)

    def evaluates(self, step: int) -> bool:
        """Whether anything is measured after a step: held-out data or by an evaluator."""
        others = any(self.due(step, evaluator.every) for evaluator in self.evaluators)
        return others or self.measures_held_out(step)


def checkpoint_dir(workdir: str | Path, stage: str) -> Path:
    return Path(workdir) / "checkpoints" / stage
