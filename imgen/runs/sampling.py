"""How samples are drawn from a run: flags that commands share, and the run's own settings behind them."""

import argparse
import dataclasses
from typing import Any

from imgen.decoding import Filters, Guidance
from imgen.errors import UserError
from imgen.runs.run import CHECKPOINTS, Run, TrainedGenerator


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--guidance", type=float, help="guidance scale, 1 for none (default: the run's)"
    )
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest code")
    parser.add_argument("--top_k", type=int, help="0 for all codes")
    parser.add_argument("--top_p", type=float, help="1 for all codes; defaults of all: the run's")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINTS, default="latest",
        help="of the run: the latest, or the best one that train.STAGE.keep_best kept",
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Choices:
    """How to draw, where it is not as the run says; as the flags of the same names."""

    guidance: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None


def choices(args: argparse.Namespace) -> Choices:
    """Of the flags."""
    return Choices(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Choices)})


def open_generator(
    workdir: str, checkpoint: str, chosen: Choices
) -> tuple[TrainedGenerator, Guidance, Filters]:
    """The generator of a run, and how to draw from it: as the run says, or as was chosen.

    Raises UserError where it can draw no pictures.
    """
    run = Run(workdir, checkpoint)
    trained = run.generator()
    if trained.tokenizer_params is None:
        raise UserError(
            f"{workdir} was trained on stored codes without a tokenizer, so it cannot draw "
            "pictures: train it with init.tokenizer set"
        )
    return trained, *run.sampling(**dataclasses.asdict(chosen))


def describe(run: TrainedGenerator, guidance: Guidance, filters: Filters) -> dict[str, Any]:
    """What a result says of its samples besides its protocol."""
    return {
        "step": run.step,
        "guidance": dataclasses.asdict(guidance),
        "filters": dataclasses.asdict(filters),
    }


def protocol(run: TrainedGenerator, guidance: Guidance, class_balance: str) -> dict[str, Any]:
    """Fields of the Protocol of its samples' results."""
    return {
        "class_balance": class_balance,
        "guidance": "none" if guidance.scale == 1 else "cfg",
        "steps": forward_passes(run.module),
    }


def forward_passes(module) -> int | None:
    """Network calls that draw one image; None where that isn't known."""
    plan = getattr(module, "decoding_plan", None) or getattr(module, "plan", None)
    return plan.calls if plan else getattr(module, "evaluations", None)
