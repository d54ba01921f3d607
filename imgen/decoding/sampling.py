"""How latents are drawn from a trained model, as one record."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from imgen.config.construct import construct
from imgen.decoding.guidance import Guidance
from imgen.diffusion.flow import SOLVERS
from imgen.errors import UserError
from imgen.generators.filters import Filters


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How latents are drawn from a trained model; every field can be changed on a trained run.

    None is the sampler's or the head's own.
    steps: calls of a plan that can choose them (masked, random), solver steps of an entity (xAR), steps of
    bit
        diffusion.
    solver: of flows (xAR, flow heads): "euler", "heun" or "euler_maruyama".
    solver_steps: that draw one token of a denoising head (flow, diffusion).
    shift: of a flow head's times, see `flow.shift_times`.
    method: key of SAMPLERS.
    """

    guidance: Guidance = Guidance()
    filters: Filters = Filters()
    steps: int | None = None
    solver: str | None = None
    solver_steps: int | None = None
    shift: float | None = None
    method: str | None = None

    def __post_init__(self):
        for name in ("steps", "solver_steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"sampling {name} {value!r}: it takes at least 1")
        if self.solver is not None and self.solver not in SOLVERS:
            raise UserError(f"sampling solver {self.solver!r} is none of {', '.join(SOLVERS)}")


def sampling_from(stage: Mapping[str, Any]) -> Sampling:
    """Returns the Sampling of a generator stage's settings: their groups `guidance`, `filters`, `sampling`.

    Raises UserError for a key that there isn't.
    """
    where = "train.generator"
    rest = dict(stage.get("sampling") or {})
    for name in ("guidance", "filters"):
        if name in rest:
            raise UserError(f"{where}.sampling has no {name!r}: it stands beside it")
    guidance = construct(Guidance, stage.get("guidance") or {}, f"{where}.guidance")
    filters = construct(Filters, stage.get("filters") or {}, f"{where}.filters")
    return construct(Sampling, rest, f"{where}.sampling", guidance=guidance, filters=filters)
