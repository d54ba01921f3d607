"""How samples are drawn from a run: flags that commands share, and the run's own settings behind them."""

import argparse
import dataclasses
from typing import Any

from imgen.decoding import Sampling, network_calls
from imgen.errors import UserError
from imgen.runs.run import CHECKPOINTS, Run, TrainedGenerator


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--guidance", type=float, help="guidance scale, 1 for none (default: the run's)"
    )
    parser.add_argument(
        "--guidance_interval", type=_pair, metavar="LOW,HIGH", help="progress that is guided"
    )
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest code")
    parser.add_argument("--top_k", type=int, help="0 for all codes")
    parser.add_argument("--top_p", type=float, help="1 for all codes; defaults of all: the run's")
    parser.add_argument("--steps", type=int, help="calls, or solver steps of an entity")
    parser.add_argument("--solver", help="of flows: euler, heun or euler_maruyama")
    parser.add_argument("--solver_steps", type=int, help="of a denoising head, a token")
    parser.add_argument("--method", help="sampler, where a model has several")
    parser.add_argument(
        "--checkpoint", choices=CHECKPOINTS, default="latest",
        help="of the run: the latest, or the best one that train.STAGE.keep_best kept",
    )  # fmt: skip


def _pair(text: str) -> tuple[float, ...]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: two numbers are needed, as 0.2,0.8") from None
    return low, high


@dataclasses.dataclass(frozen=True)
class Choices:
    """How to draw, where it is not as the run says; as the flags of the same names."""

    guidance: float | None = None
    guidance_interval: tuple[float, ...] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    steps: int | None = None
    solver: str | None = None
    solver_steps: int | None = None
    method: str | None = None


def choices(args: argparse.Namespace) -> Choices:
    """Of the flags."""
    return Choices(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Choices)})


def open_generator(
    workdir: str, checkpoint: str, chosen: Choices
) -> tuple[TrainedGenerator, Sampling]:
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
    return trained, run.sampling(**dataclasses.asdict(chosen))


def describe(run: TrainedGenerator, sampling: Sampling) -> dict[str, Any]:
    """What a result says of its samples besides its protocol."""
    about = dataclasses.asdict(sampling)
    others = {k: v for k, v in about.items() if k not in ("guidance", "filters") and v is not None}
    return {
        "step": run.step,
        "guidance": about["guidance"],
        "filters": about["filters"],
        **({"sampling": others} if others else {}),
    }


def protocol(run: TrainedGenerator, sampling: Sampling, class_balance: str) -> dict[str, Any]:
    """Fields of the Protocol of its samples' results."""
    return {
        "class_balance": class_balance,
        "guidance": "none" if sampling.guidance.scale == 1 else "cfg",
        "steps": network_calls(run.module, sampling),
    }
