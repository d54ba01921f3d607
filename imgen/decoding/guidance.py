"""Classifier-free guidance u + s (c - u), with s scheduled over the calls of a plan."""

import dataclasses
from typing import Literal

import jax
import numpy as np

from imgen.errors import UserError
from imgen.generators.plan import Plan


@dataclasses.dataclass(frozen=True)
class Guidance:
    """scale: s at the end of the schedule; 1 means no guidance, and the unconditional rows aren't run.

    schedule: "constant", or "linear" / "cosine" from 1 at the first call to `scale` at the last, over
    the share of the codes that are decided.
    interval: with k >= 0 guidance stops once the plan's progress exceeds k: decode calls in LlamaGen,
    decided codes in NAR (`cfg_interval` of both).
    """

    scale: float = 1.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    interval: int = -1

    def __post_init__(self):
        if self.schedule not in ("constant", "linear", "cosine"):
            raise UserError(
                f"guidance schedule {self.schedule!r} is none of constant, linear, cosine"
            )
        if self.scale < 1:
            raise UserError(f"guidance {self.scale}: must be 1 (none) or more")


def guidance_weights(guidance: Guidance, plan: Plan) -> np.ndarray:
    """s for each call, float32 [C]; exactly 1 where the call is not guided."""
    decided = np.searchsorted(
        np.sort(plan.decided_at), np.arange(plan.calls)
    )  # codes before a call
    share = decided / max(decided[-1], 1)
    ramp = {
        "constant": np.ones_like(share),
        "linear": share,
        "cosine": 0.5 - 0.5 * np.cos(np.pi * share),
    }[guidance.schedule]
    weights = 1 + (guidance.scale - 1) * ramp
    if guidance.interval >= 0:
        weights[plan.progress > guidance.interval] = 1
    return weights.astype(np.float32)


def guide(conditional: jax.Array, unconditional: jax.Array, weight: jax.Array) -> jax.Array:
    """u + s (c - u) in float32."""
    return unconditional + weight * (conditional - unconditional)
