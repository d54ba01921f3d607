"""Draws images from a trained run: `python -m imgen.sample --workdir RUN --out DIR --num N`.

Writes DIR/000000.png ..., DIR/grid.png and DIR/samples.npz (arr_0: uint8 [N, H, W, 3]; labels). An image
depends on the seed and its number only, not (but for rounding) on the batch size.

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

from imgen import cli, config, images
from imgen.data.loader import eval_batches
from imgen.decoding import Filters, Guidance
from imgen.errors import UserError
from imgen.runs import load_generator, load_tokenizer
from imgen.stages import eval_transform, open_source, reading
from imgen.training import prefetch
from imgen.training.generator_task import sampler
from imgen.training.prefetch import to_global
from imgen.training.progress import Progress
from imgen.training.reconstructions import draws, is_nested, reconstructor, stripper
from imgen.training.sharding import batch_sharding, make_mesh, replicated, whole_batch

log = logging.getLogger("imgen.sample")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="imgen.sample", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, metavar="RUN", help="a trained run")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--num", type=int, default=64, metavar="N", help="images (default 64)")
    parser.add_argument(
        "--labels", help="classes to draw, e.g. 1,2,3; taken in turn. Default: all classes"
    )
    parser.add_argument(
        "--guidance", type=float, help="guidance scale, 1 for none (default: the run's)"
    )
    parser.add_argument("--temperature", type=float, help="0 takes the likeliest code")
    parser.add_argument("--top_k", type=int, help="0 for all codes")
    parser.add_argument("--top_p", type=float, help="1 for all codes; defaults of all: the run's")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.num < 1 or args.batch_size < 1:
        parser.error("--num and --batch_size must be at least 1")
    cli.use_compilation_cache()
    out = cli.make_workdir(args.out, "--out")
    if "generator" not in config.read_config(args.workdir).train:
        return reconstruct(args, out)

    run = load_generator(args.workdir)
    if run.tokenizer_params is None:
        raise UserError(
            f"{args.workdir} was trained on stored codes without a tokenizer, so it cannot draw "
            "pictures: train it with init.tokenizer set"
        )
    settings = config.read_config(args.workdir).train.generator
    guidance = _chosen(settings.get("guidance", {}), scale=args.guidance)
    filters = _chosen(
        settings.get("filters", {}),
        temperature=args.temperature, top_k=args.top_k, top_p=args.top_p,
    )  # fmt: skip
    labels = np.resize(_labels(args.labels, run.module.conditioner), args.num)
    draw = sampler(run.module, run.tokenizer, Guidance(**guidance), Filters(**filters))
    key, mesh, began = jax.random.key(args.seed), make_mesh(), time.monotonic()
    size = whole_batch(min(args.batch_size, args.num), mesh)
    progress = Progress("sample", args.num, noun="images")
    pixels = None
    with jax.set_mesh(mesh), contextlib.closing(progress):
        params = jax.device_put((run.params, run.tokenizer_params), replicated(mesh))
        for start in range(0, args.num, size):
            ids = np.arange(start, start + size)  # a short last batch is drawn whole and cut
            batch = {"label": labels[ids % args.num].astype(np.int32), "id": ids}
            batch = to_global(batch, batch_sharding(mesh))
            drawn = draw(*params, {"label": batch["label"]}, key, batch["id"])
            drawn = jax.device_get(drawn)[: args.num - start]
            if pixels is None:
                pixels = np.empty((args.num, *drawn.shape[1:]), np.uint8)
            pixels[start : start + size] = drawn
            for number, image in enumerate(drawn, start):
                images.save_png(out / f"{number:06d}.png", image)
            progress.update(min(start + size, args.num))
    images.save_png(out / "grid.png", images.enlarge(images.grid(pixels[:100])))
    np.savez(out / "samples.npz", pixels, labels=labels)
    seconds = time.monotonic() - began
    log.info("%d images in %.1f s, compilation included: %s", args.num, seconds, out)


def reconstruct(args, out: Path) -> None:
    """Held-out images through a run's tokenizer. Raises UserError for a flag that has no meaning for it."""
    run, settings = load_tokenizer(args.workdir), config.read_config(args.workdir)
    tokenizer = run.module
    idle = ["labels", "temperature", "top_k", "top_p"]
    idle += [] if hasattr(tokenizer, "guidance_scale") else ["guidance"]
    if given := [f"--{name}" for name in idle if getattr(args, name) is not None]:
        raise UserError(
            f"{args.workdir} trained a tokenizer only, whose reconstructions {', '.join(given)} cannot "
            "change: leave it out"
        )
    if args.guidance is not None:
        tokenizer = tokenizer.clone(guidance_scale=args.guidance)
    key = (jax.random.key(args.seed),) if draws(tokenizer) else ()
    source, mesh = open_source(settings, "eval"), make_mesh()
    num = min(args.num, len(source))
    if num < args.num:
        log.warning("there are %d held-out images, not %d", num, args.num)
    progress = Progress("sample", num, noun="images")
    batches = eval_batches(
        source, eval_transform(settings), num_examples=num,
        batch_size=whole_batch(min(args.batch_size, num), mesh), **reading(settings),
    )  # fmt: skip
    draw, originals, recon = reconstructor(tokenizer), [], []
    with jax.set_mesh(mesh), prefetch.closing(batches), contextlib.closing(progress):
        params = jax.device_put(run.params, replicated(mesh))
        for batch in batches:
            images_here = jax.device_put(batch["image"], batch_sharding(mesh))
            read = batch["mask"] > 0
            originals.append(batch["image"][read])
            recon.append(jax.device_get(draw(params, images_here, *key))[read])
            progress.update(sum(map(len, recon)))
        originals, recon = np.concatenate(originals), np.concatenate(recon)
        if is_nested(tokenizer):
            strips = jax.device_get(stripper(tokenizer)(params, originals[:8], *key))
            rows = strips.reshape(-1, *strips.shape[2:])
            images.save_png(
                out / "tokens.png", images.enlarge(images.grid(rows, columns=strips.shape[1]))
            )
    for number, image in enumerate(recon):
        images.save_png(out / f"{number:06d}.png", image)
    pairs = np.stack([originals, recon], axis=1)[:64].reshape(-1, *recon.shape[1:])
    images.save_png(out / "grid.png", images.enlarge(images.grid(pairs, columns=8)))
    np.savez(out / "samples.npz", recon, originals=originals)
    log.info("%d reconstructions: %s", len(recon), out)


def _chosen(run_default, **asked) -> dict:
    """The run's settings with those that the user gave."""
    return {**config.plain(run_default), **{k: v for k, v in asked.items() if v is not None}}


def _labels(text: str | None, conditioner) -> np.ndarray:
    classes = getattr(conditioner, "num_classes", None)
    if classes is None:
        raise UserError(
            "this run is conditioned on text features; imgen.sample draws classes only so far"
        )
    if text is None:
        return np.arange(classes)
    try:
        labels = np.array([int(label) for label in text.split(",")])
    except ValueError:
        raise UserError(
            f"--labels {text!r}: whole numbers joined by commas are needed, e.g. 1,2,3"
        ) from None
    if (labels < 0).any() or (labels >= classes).any():
        raise UserError(f"--labels {text}: the run's classes are 0 to {classes - 1}")
    return labels


if __name__ == "__main__":
    sys.exit(cli.run(main))
