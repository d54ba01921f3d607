"""Next-X prediction side by side: entities of every kind on the same latents, at equal steps.

    python -m benchmarks.compare_entities --workdir RUN --out DIR [--steps 1000] [--models token,cell]

RUN is a run with a trained continuous tokenizer (such as configs/small_tokenizers.py:kl). The moments of its
data are stored once (DIR/latents); then a small xAR is trained on them for every entity (DIR/MODEL, a run
like any other: started again, the command goes on where it stopped), and beside them raster order with a
flow head for each token and with MAR's diffusion head. Writes DIR/results.jsonl, DIR/table.md,
DIR/compare.html and a sample grid DIR/MODEL.png for each. --config.generator.width=192 and the like change
all models.

Losses are squared errors of the velocity on held-out images, a channel, over logit-normal times; those of
unlike entities differ in what is known besides. raster_flow's are over even times, as Ming's head is trained,
and MAR's are of noise: they compare with no other. Network evaluations are
calls of the whole transformer on one entity, or of the head on one token. Sampling is timed in turns with
the guidance of the samples, latents only, compiled beforehand: medians.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from benchmarks.comparison import Comparison, Job, chosen, in_turns
from benchmarks.runs import draw, on_stored_latents, store_latents, training
from imgen import config
from imgen.decoding import draw_latents, network_calls
from imgen.decoding.cached import solver_of
from imgen.report.charts import chart
from imgen.runs import cli, held_out
from imgen.runs.experiment import Experiment
from imgen.runs.run import Run

NAMES = ("token", "cell", "subsample", "scale", "image", "raster_flow", "raster_diffusion")
COLUMNS = {
    "name": "model",
    "parameters": "parameters",
    "entities": "entities",
    "loss": "held-out loss",
    "evaluations": "network evaluations/image",
    "images_per_second": "images/s",
    "train_images_per_second": "training images/s",
}
NOTE = (
    "Losses are errors of the velocity, each from what an entity sees, and so compare for one kind of entity "
    "only; raster_flow's is over other times, raster_diffusion's of noise. Evaluations: passes of the whole "
    "transformer over one entity; of the raster models passes of the head over one token, beside one of the "
    "transformer a token."
)
BATCH = 16  # images that are drawn at a time


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="benchmarks.compare_entities", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", required=True, metavar="RUN", help="a run with a trained continuous tokenizer"
    )
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--models", default=",".join(NAMES), help=f"of {', '.join(NAMES)}")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--solver_steps", type=int, default=20, help="for each entity or token")
    parser.add_argument("--samples", type=int, default=64, help="pictures in a grid")
    parser.add_argument("--seconds", type=float, default=3.0, help="to time each sampling for")
    args, overrides = parser.parse_with_overrides(argv)
    comparison = Comparison(args.out, chosen(args.models, NAMES, "--models"), NAMES)
    run = config.read_config(args.workdir)
    latents = store_latents(args.workdir, run, comparison.out / "latents")
    runs = comparison.train(
        lambda name: config.override(model_settings(run, args, latents, name), overrides),
        quality,
        lambda run: draw(run, args.samples),
    )
    jobs = {name: job(runs[name]) for name in comparison.names}
    for name, speed in in_turns(jobs, args.seconds).items():
        comparison.add(name, {"images_per_second": speed})
    curves = [
        (name, *zip(*row["curve"], strict=True))
        for name, row in comparison.rows.items()
        if name != "raster_diffusion"  # whose loss is another
    ]
    comparison.report(
        f"Entities after {args.steps:,} steps on the latents of {args.workdir}",
        COLUMNS,
        NOTE,
        {"Held-out loss over training steps": chart("", curves, values=False)},
    )


def model_settings(run: FrozenConfigDict, args, latents: Path, name: str) -> ConfigDict:
    """Returns the run's config, made to train one of the models on stored moments."""
    settings = on_stored_latents(run, args.workdir, latents, args.steps, args.batch_size)
    settings.train.generator.update(
        log_every=50, ema_decay=0.995, condition_dropout=0.1,
        optimizer=dict(
            learning_rate=1e-3, betas=(0.9, 0.96), weight_decay=0.02,
            schedule=dict(name="cosine", warmup_steps=100),
        ),
        guidance=dict(scale=2.0, schedule="linear"),
    )  # fmt: skip
    which = "solver_steps" if name.startswith("raster") else "steps"
    settings.train.generator.sampling = {which: args.solver_steps}
    base = Experiment.build(run)
    classes = dict(name="class", num_classes=base.data.train.num_classes)
    size = dict(width=128, heads=4, conditioning=classes, dropout=0.0)
    if name.startswith("raster"):
        head = name.removeprefix("raster_")
        settings.generator = dict(
            plan="raster", plan_options={}, head=head,
            head_options=dict(width=256, depth=3),
            depth=4, hidden=344, cond_rope="identity", **size,
        )  # fmt: skip
    else:
        half = min(base.spec.grid) // 2
        options = {
            "cell": dict(side=half),
            "subsample": dict(stride=2),
            "scale": dict(shares=(4, 2, 1)),
        }
        settings.generator = dict(
            name="xar", entity=name, entity_options=options.get(name, {}), depth=(2, 2),
            **size,
        )  # fmt: skip
    return FrozenConfigDict(settings)


def quality(run: Run) -> dict:
    """Returns what training came to, on as many held-out images as it was evaluated on."""
    settings, model, sampling = run.experiment.settings, run.experiment.model, run.sampling()
    on = held_out.HeldOut(run, run.experiment.data.limit("eval"))
    if "plan" in settings.generator:  # the MLP's, not the transformer's
        entities = model.plan.positions
        evaluations = entities * solver_of(model, sampling).evaluations
    else:
        entities, evaluations = model.entities.count, network_calls(model, sampling)
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(run.experiment.model_shapes())),
        "entities": entities,
        "loss": round(held_out.error(on)["loss"], 4),
        "evaluations": evaluations,
        **training(run, "val/loss"),
    }


def job(run: Run) -> Job:
    """Returns the drawing of BATCH images' latents."""
    model, ids, sampling = run.experiment.model, jnp.arange(BATCH), run.sampling()
    cond = {"label": ids % model.conditioner.num_classes}
    sample = jax.jit(lambda params, key: draw_latents(model, params, cond, key, ids, sampling))
    params = jax.device_put(run.generator().params)

    def once(number: int) -> None:
        jax.block_until_ready(sample(params, jax.random.key(number)))

    return once, BATCH


if __name__ == "__main__":
    sys.exit(cli.run(main))
