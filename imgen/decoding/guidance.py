"""Classifier-free guidance u + s (c - u), with s scheduled over the calls of a sampler."""

import dataclasses

import numpy as np

from imgen.diffusion.guidance import guide
from imgen.errors import UserError
from imgen.generators.plan import Plan

__all__ = ["SCHEDULES", "Guidance", "guidance_weights", "guide", "ramp_weights"]


def _to_last(before: np.ndarray) -> np.ndarray:
    return before / before[-1] if before[-1] else np.ones_like(before)


# How far the weight has come at each call, from what is decided before and after it, as shares of all.
SCHEDULES = {
    "constant": lambda before, after, power: np.ones_like(before),
    # From 1 at the first call to the scale at the last; of a single call, the scale.
    "linear": lambda before, after, power: _to_last(before),
    "cosine": lambda before, after, power: 0.5 - 0.5 * np.cos(np.pi * _to_last(before)),
    "half_linear": lambda before, after, power: np.minimum(1, 2 * before),  # Token-Shuffle
    "linear_before": lambda before, after, power: before,  # RandAR
    "pow_cosine": lambda before, after, power: 0.5 - 0.5 * np.cos(np.pi * before**power),  # RAR
    # ELM, `llama/ar_model.py`.
    "linear_after": lambda before, after, power: after,
    "sine_after": lambda before, after, power: np.sin(np.pi / 2 * after),
    "log_after": lambda before, after, power: np.log1p(after * (np.e - 1)),
    "square_after": lambda before, after, power: after**2,
    "sqrt_before": lambda before, after, power: np.sqrt(before),
}


@dataclasses.dataclass(frozen=True)
class Guidance:
    """scale: s at the end of the schedule; 1 means no guidance, and the unconditional rows aren't run.

    schedule: key of SCHEDULES: how s grows from `start` to `scale` with the share of the codes decided.
    power: of "pow_cosine"; 0 is constant.
    interval: (low, high): guidance acts only while the sampler's own progress is between them. That of plans
        is `Plan.progress`: decode calls in LlamaGen, from -1, decided codes in NAR (`cfg_interval` of both);
        of flows and of bit diffusion the time, from 1 to 0.
    """

    scale: float = 1.0
    schedule: str = "constant"
    interval: tuple[float, float] | None = None
    start: float = 1.0
    power: float = 1.0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise UserError(
                f"guidance schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}"
            )
        if not (1 <= self.scale < np.inf and 1 <= self.start < np.inf):
            raise UserError(f"guidance {self.scale} from {self.start}: must be 1 (none) or more")
        if not 0 <= self.power < np.inf:
            raise UserError(f"guidance power {self.power}: must be 0 or more")
        if self.interval is not None:
            interval = tuple(self.interval) if isinstance(self.interval, tuple | list) else ()
            if len(interval) != 2 or not interval[0] <= interval[1]:
                raise UserError(f"guidance interval {self.interval}: two numbers, low <= high")
            object.__setattr__(self, "interval", interval)

    def holds(self, progress: np.ndarray) -> np.ndarray:
        """Returns where its interval lies, bool like `progress`."""
        low, high = self.interval or (-np.inf, np.inf)
        return (np.asarray(progress) >= low) & (np.asarray(progress) <= high)


def guidance_weights(guidance: Guidance, plan: Plan) -> np.ndarray:
    """Returns s for each call, float32 [C]; exactly 1 where the call is not guided."""
    decided = np.searchsorted(np.sort(plan.decided_at), np.arange(plan.calls + 1))
    weights = ramp_weights(guidance, decided / plan.positions)
    weights[~guidance.holds(plan.progress)] = 1
    return weights


def ramp_weights(guidance: Guidance, decided: np.ndarray) -> np.ndarray:
    """Returns s for each of C steps from the shares [C + 1] decided before and after them: float32 [C]."""
    ramp = SCHEDULES[guidance.schedule](decided[:-1], decided[1:], guidance.power)
    start = guidance.scale if guidance.schedule == "constant" else guidance.start
    return (start + (guidance.scale - start) * ramp).astype(np.float32)
