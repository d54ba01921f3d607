"""Task: what `imgen.train` trains, as the loop sees it. Tokenizers and generators have one each."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import numpy as np

PyTree = Any
# Always "step" (int32 scalar: updates done) and "params"; usually "opt" and "ema", or what the task
# needs besides ("disc", "disc_opt", "codebook"). Every key is one item of a checkpoint. "X_opt" and
# "X_ema" are sharded as "X" is, "opt" and "ema" as "params".
State = dict[str, PyTree]
Batch = dict[str, Any]


class Task(Protocol):
    """A kind of task is a subclass.

    sharding_rules: (regex on "params/..." paths, spec); the first match counts.
    frozen_items: items of the state that `init` leaves out, made elsewhere and never changed here.
    trained: parameters of other models, by path, to start from (`training.warm_start`).
    after_warm_start: (state, batch) -> state, pure: what follows from parameters that were taken from
        another run, if anything does.
    microbatches: passes that a batch is cut into.
    """

    sharding_rules: list[tuple[str, tuple]]
    frozen_items: State = {}
    trained: dict[str, np.ndarray] | None = None
    after_warm_start: Callable[[State, Batch], State] | None = None
    microbatches: int = 1

    def init(self, rng: jax.Array, batch: Batch) -> State:
        """Makes a fresh state; pure, so that it can be traced for shapes and run sharded."""

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict]:
        """Does one update, pure: (state with step + 1, scalar metrics); `rng` is this step's key."""

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        """Returns sums over the batch, weighted by its "mask", pure: the loop adds them up."""

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """Turns the added sums into the metrics of a whole evaluation, on the host."""

    def visualize(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, np.ndarray]:
        """Returns pictures by name, uint8 [H, W, 3]."""

    def parameter_notes(self, params: PyTree) -> dict[str, str]:
        """Says what the optimiser does to each parameter, by path, for the table printed at the start
        (`optim.describe`)."""
        return {}

    def doubts(self) -> list[str]:
        """Lists, in lines, settings that will not do what they look like, to warn of before training."""
        return []
