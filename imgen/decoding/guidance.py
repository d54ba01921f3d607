"""Classifier-free guidance u + s (c - u), with s scheduled over the calls of a plan."""

import dataclasses

import jax
import numpy as np

from imgen.errors import UserError
from imgen.generators.plan import Plan


def _to_last(before: np.ndarray) -> np.ndarray:
    return before / before[-1] if before[-1] else np.ones_like(before)


# How far the weight has come at each call, from what is decided before and after it, as shares of all.
SCHEDULES = {
    "constant": lambda before, after: np.ones_like(before),
    # From 1 at the first call to the scale at the last; of a single call, the scale.
    "linear": lambda before, after: _to_last(before),
    "cosine": lambda before, after: 0.5 - 0.5 * np.cos(np.pi * _to_last(before)),
    "half_linear": lambda before, after: np.minimum(1, 2 * before),  # Token-Shuffle
    "linear_before": lambda before, after: before,  # RandAR
    # ELM, `llama/ar_model.py`.
    "linear_after": lambda before, after: after,
    "sine_after": lambda before, after: np.sin(np.pi / 2 * after),
    "log_after": lambda before, after: np.log1p(after * (np.e - 1)),
    "square_after": lambda before, after: after**2,
    "sqrt_before": lambda before, after: np.sqrt(before),
}


@dataclasses.dataclass(frozen=True)
class Guidance:
    """scale: s at the end of the schedule; 1 means no guidance, and the unconditional rows aren't run.

    schedule: key of SCHEDULES: how s grows from `start` to `scale` with the share of the codes decided.
    interval: with k >= 0 guidance stops once the plan's progress exceeds k: decode calls in LlamaGen,
    decided codes in NAR (`cfg_interval` of both).
    """

    scale: float = 1.0
    schedule: str = "constant"
    interval: int = -1
    start: float = 1.0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"guidance schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}"
            )
        if self.scale < 1 or self.start < 1:
            raise UserError(f"guidance {self.scale} from {self.start}: must be 1 (none) or more")


def guidance_weights(guidance: Guidance, plan: Plan) -> np.ndarray:
    """s for each call, float32 [C]; exactly 1 where the call is not guided."""
    decided = np.searchsorted(np.sort(plan.decided_at), np.arange(plan.calls + 1))
    weights = ramp_weights(guidance, decided / plan.positions)
    if guidance.interval >= 0:
        weights[plan.progress > guidance.interval] = 1
    return weights


def ramp_weights(guidance: Guidance, decided: np.ndarray) -> np.ndarray:
    """s for each of C steps from the shares [C + 1] that are decided before and after them: float32 [C]."""
    ramp = SCHEDULES[guidance.schedule](decided[:-1], decided[1:])
    start = guidance.scale if guidance.schedule == "constant" else guidance.start
    return (start + (guidance.scale - start) * ramp).astype(np.float32)


def guide(conditional: jax.Array, unconditional: jax.Array, weight: jax.Array) -> jax.Array:
    """u + s (c - u) in float32."""
    return unconditional + weight * (conditional - unconditional)
