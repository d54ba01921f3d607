"""Task: what `imgen.train` trains, as the loop sees it. Tokenizers and generators have one each."""

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
    sharding_rules: list[tuple[str, tuple]]  # (regex on "params/..." paths, spec), the first match
    # Optional: items of the state that `init` leaves out, made elsewhere and never changed here.
    frozen_items: State

    def init(self, rng: jax.Array, batch: Batch) -> State:
        """A fresh state; pure, so that it can be traced for shapes and run sharded."""

    # Optional: after_warm_start(state, batch) -> state, pure: what follows from parameters that were taken
    # from another run.

    def train_step(self, state: State, batch: Batch, rng: jax.Array) -> tuple[State, dict]:
        """One update, pure: (state with step + 1, scalar metrics); `rng` is this step's key."""

    def eval_step(self, state: State, batch: Batch) -> dict[str, jax.Array]:
        """Sums over the batch, weighted by its "mask", pure: the loop adds them up."""

    def summarize(self, sums: dict[str, np.ndarray]) -> dict[str, float]:
        """The metrics of a whole evaluation from the added sums, on the host."""

    def visualize(self, state: State, batch: Batch, rng: jax.Array) -> dict[str, np.ndarray]:
        """Pictures by name, uint8 [H, W, 3]."""

    def parameter_notes(self, params: PyTree) -> dict[str, str]:
        """What the optimiser does to each parameter, by path, for the table printed at the start
        (`optim.describe`)."""
