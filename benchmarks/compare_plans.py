"""Generation orders side by side: the same codes, equal parameters, equal steps.

    python -m benchmarks.compare_plans --workdir RUN --out DIR [--steps 1000] [--plans raster,nar]

RUN is a run with a trained tokenizer; its generator settings, with changes such as
--config.generator.width=128, are the base of all. The codes of its data are stored once (DIR/codes), then
each plan is trained on them (DIR/PLAN, a run like any other: started again, the command goes on where it
stopped).
Writes DIR/results.jsonl, DIR/table.md, DIR/compare.html and a sample grid DIR/PLAN.png for each.

Parameters are made equal to raster's by the feed-forward width. When all are trained, their decoding is timed
in turns with the run's guidance, and one image at a time also without, codes only, compiled beforehand:
medians. Small models fit in a CPU's cache, where a call costs by the code; so one image at a time is also
timed at LlamaGen-B's size (NAR-B, ...), with fresh parameters, where a call costs the reading of the weights.
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from benchmarks.comparison import Comparison, Job, chosen, in_turns
from benchmarks.runs import draw, on_stored_latents, store_latents, training
from imgen import config
from imgen.decoding import Guidance, Sampling, draw_latents, network_calls
from imgen.errors import UserError
from imgen.generators.presets import LLAMAGEN
from imgen.report.charts import chart
from imgen.runs import cli
from imgen.runs.experiment import Experiment
from imgen.runs.run import Run

# What a plan changes in the generator's settings. NAR's second head is a block of its own.
PLANS: dict[str, Callable[[dict], dict]] = {
    "raster": lambda base: {},
    "nar": lambda base: {"depth": base["depth"] - 1},
    "par": lambda base: {"plan_options": {"groups": 4}},
    "random": lambda base: {},
    "token_shuffle": lambda base: {"window": 2},
    "masked": lambda base: {},
}
STEPS = {"random": 16, "masked": 10}  # calls of plans that choose them
COLUMNS = {
    "name": "order",
    "parameters": "parameters",
    "nats_per_image": "nats/image",
    "calls": "calls/image",
    "images_per_second_1": "images/s, batch 1",
    "images_per_second_1_unguided": "batch 1, no guidance",
    "images_per_second_64": "images/s, batch 64",
    "images_per_second_b": "at size B, batch 1",
    "train_images_per_second": "training images/s",
}
BOUND = (
    "≤: an upper bound, for one code a call in random order; the calls and speeds beside it are those of the "
    "parallel decoding that draws the samples."
)
BATCHES = (1, 64)
WITHIN = 0.01  # of the parameters of the first plan


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="benchmarks.compare_plans", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", required=True, metavar="RUN", help="a run with a trained tokenizer"
    )
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--plans", default=",".join(PLANS), help=f"of {', '.join(PLANS)}")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=64, help="pictures in a grid")
    parser.add_argument("--seconds", type=float, default=3.0, help="to time each decoding for")
    parser.add_argument(
        "--no_size_b", dest="size_b", action="store_false", help="no timing at LlamaGen-B's size"
    )
    args, overrides = parser.parse_with_overrides(argv)
    comparison = Comparison(args.out, chosen(args.plans, [*PLANS], "--plans"), [*PLANS])
    run = config.override(config.read_config(args.workdir), overrides)
    codes = store_latents(args.workdir, run, comparison.out / "codes")
    target = parameters(plan_settings(run, args, codes, "raster"))
    runs = comparison.train(
        lambda plan: with_parameters(plan_settings(run, args, codes, plan), target),
        quality,
        lambda run: draw(run, args.samples),
    )
    for plan, speeds in time_decoding({p: runs[p] for p in comparison.names}, args).items():
        comparison.add(plan, speeds)
    curves = [(row["name"], *zip(*row["curve"], strict=True)) for row in comparison.rows.values()]
    comparison.report(
        f"Orders after {args.steps:,} steps on the codes of {args.workdir}",
        COLUMNS,
        BOUND,
        {"Held-out nats per image over training steps": chart("", curves, values=False)},
        with_bound,
    )


def with_bound(row: dict) -> dict:
    """Returns a row in which what is only bounded says so."""
    return {**row, "nats_per_image": f"≤ {row['nats_per_image']}"} if row["is_bound"] else row


def plan_settings(run: FrozenConfigDict, args, codes: Path, plan: str) -> FrozenConfigDict:
    """Returns the run's config, made to train `plan` on stored codes."""
    settings = on_stored_latents(run, args.workdir, codes, args.steps, args.batch_size)
    base = settings.generator
    base.update(plan=plan, plan_options={})
    base.update(PLANS[plan](base.to_dict()))
    settings.train.generator.sampling = {"steps": STEPS[plan]} if plan in STEPS else {}
    return FrozenConfigDict(settings)


def parameters(settings: FrozenConfigDict) -> int:
    """Returns how many the generator of a config has."""
    return count(Experiment.build(settings).model_shapes())


def count(params) -> int:
    """Returns how many numbers a tree of arrays or shapes has."""
    return sum(x.size for x in jax.tree.leaves(params))


def with_parameters(settings: FrozenConfigDict, target: int | None) -> FrozenConfigDict:
    """Returns the config with the feed-forward width that brings its parameters nearest to `target`."""

    def width(hidden: int) -> FrozenConfigDict:
        changed = ConfigDict(settings.to_dict()).unlock()
        changed.generator.hidden = hidden
        return FrozenConfigDict(changed)

    if target is None:
        return settings
    at_8, at_10 = parameters(width(8)), parameters(width(10))
    hidden = max(2, 8 + 2 * round((target - at_8) / (at_10 - at_8)))
    found = width(hidden)
    if abs(parameters(found) - target) > WITHIN * target:
        raise UserError(
            f"plan {settings.generator.plan} cannot have {target} parameters: at a feed-forward width of "
            f"{hidden} it has {parameters(found)}"
        )
    return found


def quality(run: Run) -> dict:
    """Returns what training came to."""
    found, model = training(run, "val/nats_per_image"), run.experiment.model
    return {
        "parameters": count(run.experiment.model_shapes()),
        "nats_per_image": round(found["curve"][-1][1], 2),
        # Orders that are drawn, or chosen: the likelihood is that of one code a call, and only bounded.
        "is_bound": model.likelihood == "bound",
        "calls": network_calls(model, run.sampling()),
        **found,
    }


def time_decoding(runs: dict[str, Run], args) -> dict[str, dict[str, float]]:
    """Returns images a second of each plan: the trained models at BATCHES, models of size B one at a time."""
    jobs = {}
    for plan, run in runs.items():
        model, sampling = run.experiment.model, run.sampling()
        unguided = dataclasses.replace(sampling, guidance=Guidance())
        params = jax.device_put(run.generator().params)
        for batch in BATCHES:
            jobs[plan, f"images_per_second_{batch}"] = job(model, params, sampling, batch)
        jobs[plan, "images_per_second_1_unguided"] = job(model, params, unguided, 1)
    speeds = in_turns(jobs, args.seconds)
    if args.size_b:
        for plan, run in runs.items():  # one after another: each takes half a gigabyte
            model = at_size_b(run.experiment.settings)
            params = jax.jit(model.init_params)(jax.random.key(0))
            alone = {(plan, "images_per_second_b"): job(model, params, run.sampling(), 1)}
            speeds |= in_turns(alone, args.seconds)
    return {plan: {k: v for (p, k), v in speeds.items() if p == plan} for plan in runs}


def at_size_b(settings: FrozenConfigDict):
    """Returns the generator of a config with the width and depth of LlamaGen-B."""
    larger = ConfigDict(settings.to_dict()).unlock()
    larger.generator.update(LLAMAGEN["B"])
    larger.generator.hidden = None
    return Experiment.build(FrozenConfigDict(larger)).model


def job(model, params, sampling: Sampling, batch: int) -> Job:
    """Returns the decoding of `batch` images."""
    ids = jnp.arange(batch)
    cond = {"label": ids % model.conditioner.num_classes}
    draw = jax.jit(lambda params, key: draw_latents(model, params, cond, key, ids, sampling))

    def once(number: int) -> None:
        jax.block_until_ready(draw(params, jax.random.key(number)))

    return once, batch


if __name__ == "__main__":
    sys.exit(cli.run(main))
