"""Draws images from a trained run: `python -m imgen.sample --workdir RUN --out DIR --num N`.

Writes DIR/000000.png ..., DIR/grid.png and DIR/samples.npz (arr_0: uint8 [N, H, W, 3]; labels; protocol: how
they were drawn, for imgen.evaluate). An image depends on the seed and its number only, not (but for rounding)
on the batch size.

Of a run that trained a tokenizer only, it draws reconstructions of held-out images in the same files;
grid.png then shows pairs original | reconstruction, samples.npz holds `originals` too, and of tokenizers that
can decode any number of tokens tokens.png shows original | 1, 2, 4, ... tokens. Only where decoding is random
(FlexTok) do the seed and the guidance have a meaning there.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from imgen.conditioning.conditions import chosen_labels
from imgen.errors import UserError
from imgen.evaluation.images import sample_files
from imgen.parallel import prefetch
from imgen.parallel.mesh import batch_sharding, make_mesh, replicated, whole_batch
from imgen.report import pixels as images
from imgen.report.progress import Progress
from imgen.runs import cli
from imgen.runs import sampling as drawing
from imgen.runs.run import Run
from imgen.runs.sample_writer import SampleWriter, remove_others
from imgen.training.generator_task import sampler
from imgen.training.reconstructions import reconstructor, stripper
from imgen.training.sampling import sample_set

log = logging.getLogger("imgen.sample")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="imgen.sample", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, metavar="RUN", help="a trained run")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--num", type=int, default=64, metavar="N", help="images (default 64)")
    parser.add_argument(
        "--labels",
        help="classes to draw, names or numbers, e.g. 1,2,3; taken in turn. Default: all",
    )
    drawing.add_flags(parser)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.num < 1 or args.batch_size < 1:
        parser.error("--num and --batch_size must be at least 1")
    cli.use_compilation_cache()
    out = cli.make_workdir(args.out, "--out")
    experiment = Run(args.workdir).experiment
    if "generator" not in experiment.stages:
        return _reconstruct(args, out)

    run, sampling = drawing.open_generator(args.workdir, args.checkpoint, drawing.choices(args))
    names = experiment.data.class_names if args.labels else None
    conditions = chosen_labels(run.module.conditioner, args.labels, args.num, names)
    mesh, began, size = make_mesh(), time.monotonic(), (experiment.data.image_size,) * 2
    progress = Progress("sample", args.num, noun="images")
    with (
        jax.set_mesh(mesh),
        contextlib.closing(progress),
        SampleWriter(out, args.num, size) as writer,
    ):
        params = jax.device_put((run.params, run.tokenizer_params), replicated(mesh))
        samples = sample_set(
            sampler(run.module, run.tokenizer, sampling), *params, conditions,
            jax.random.key(args.seed), name="samples", size=size, sharding=batch_sharding(mesh),
        )  # fmt: skip
        for drawn, mask in samples.read(whole_batch(min(args.batch_size, args.num), mesh)):
            writer.write(drawn[mask > 0])
            progress.update(writer.done)
        about = drawing.describe(run, sampling) | {"seed": args.seed}
        how = drawing.protocol(run, sampling, "chosen" if args.labels else "balanced")
        told = {sample_files.KEY: sample_files.drawn(how, about)}
        writer.finish(labels=conditions.labels, **told)
    images.save_png(out / "grid.png", images.enlarge(images.grid(writer.first(100))))
    seconds = time.monotonic() - began
    log.info("%d images in %.1f s, compilation included: %s", args.num, seconds, out)


def _reconstruct(args, out: Path) -> None:
    """Held-out images through a run's tokenizer. Raises UserError for a flag that has no meaning for it."""
    opened = Run(args.workdir, args.checkpoint)
    run, data = opened.tokenizer(), opened.experiment.data
    tokenizer = run.module
    idle = ["labels", *(name for name in vars(drawing.Choices()) if name != "guidance")]
    idle += ["guidance"] if tokenizer.guidance_scale is None else []
    if given := [f"--{name}" for name in idle if getattr(args, name) is not None]:
        raise UserError(
            f"{args.workdir} trained a tokenizer only, whose reconstructions {', '.join(given)} cannot "
            "change: leave it out"
        )
    if args.guidance is not None:
        tokenizer = tokenizer.clone(guidance_scale=args.guidance)
    key, done = jax.random.key(args.seed), 0
    mesh, num = make_mesh(), min(args.num, len(data.held_out))
    if num < args.num:
        log.warning("there are %d held-out images, not %d", num, args.num)
    progress = Progress("sample", num, noun="images")
    batches = data.eval_batches("eval", num, whole_batch(min(args.batch_size, num), mesh))
    draw, originals, recon = reconstructor(tokenizer), [], []
    with jax.set_mesh(mesh), prefetch.closing(batches), contextlib.closing(progress):
        params = jax.device_put(run.params, replicated(mesh))
        for batch in batches:
            ids = done + np.arange(len(batch["image"]))
            here, done = jax.device_put((batch["image"], ids), batch_sharding(mesh)), ids[-1] + 1
            read = batch["mask"] > 0
            originals.append(batch["image"][read])
            recon.append(jax.device_get(draw(params, here[0], key, here[1]))[read])
            progress.update(sum(map(len, recon)))
        originals, recon = np.concatenate(originals), np.concatenate(recon)
        if tokenizer.nested:
            first = originals[:8]
            strips = jax.device_get(stripper(tokenizer)(params, first, key, np.arange(len(first))))
            rows = strips.reshape(-1, *strips.shape[2:])
            images.save_png(
                out / "tokens.png", images.enlarge(images.grid(rows, columns=strips.shape[1]))
            )
    for number, image in enumerate(recon):
        images.save_png(out / f"{number:06d}.png", image)
    remove_others(out, len(recon))
    pairs = np.stack([originals, recon], axis=1)[:64].reshape(-1, *recon.shape[1:])
    images.save_png(out / "grid.png", images.enlarge(images.grid(pairs, columns=8)))
    np.savez(out / "samples.npz", recon, originals=originals)
    log.info("%d reconstructions: %s", len(recon), out)


if __name__ == "__main__":
    sys.exit(cli.run(main))
