"""Stores a data set as a tokenizer's latents: `python -m imgen.encode --workdir RUN --split S --out DIR`.

Writes DIR/S: for each image the latents of a centre crop and of its mirror image, or with --ten_crop those of
ten crops, as LlamaGen trains on (run it with --crop_range 1.1 and 1.05 for its two sets). Of continuous
latents mean and variance are stored, and training draws from them anew each time. Train on them with
`data.source=dict(name="latents", path=DIR)`.
"""

import dataclasses
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from imgen.data import make_source
from imgen.data.preprocess import StoredViews
from imgen.data.source import Source
from imgen.data.stored import LatentsWriter
from imgen.report.progress import Progress
from imgen.runs import cli
from imgen.runs.data import RunData
from imgen.runs.run import Run, TrainedTokenizer

log = logging.getLogger("imgen.encode")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="imgen.encode", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workdir", required=True, metavar="RUN", help="a run with a trained tokenizer"
    )
    parser.add_argument("--dataset", help="TFDS name or folder of images (default: the run's data)")
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument(
        "--ten_crop", action="store_true", help="ten crops, not one and its mirror image"
    )
    parser.add_argument(
        "--crop_range", type=float, default=1.1, help="of the ten crops (default 1.1)"
    )
    parser.add_argument("--image_size", type=int, help="pixels (default: the run's)")
    parser.add_argument("--batch_size", type=int, default=32, help="images at a time")
    parser.add_argument(
        "--num_workers", type=int, help="processes that read and crop (default: the run's)"
    )
    args = parser.parse_args(argv)
    if args.batch_size < 1 or args.crop_range < 1:
        parser.error("--batch_size and --crop_range must be at least 1")
    cli.use_compilation_cache()

    out = cli.make_workdir(args.out, "--out") / args.split
    opened = Run(args.workdir)
    run, data = opened.tokenizer(), opened.experiment.data
    size = args.image_size or data.image_size
    source = _source(args.dataset, args.split, data)
    views = StoredViews(size, args.ten_crop, args.crop_range)
    writer = LatentsWriter(
        out,
        run.module.spec(size),
        split=args.split,
        tokenizer_hash=run.fingerprint,
        variants=views.variants,
        moments=run.has_moments,
        num_classes=source.num_classes,
        class_names=source.class_names,
        data=source.about(),
        crops=dataclasses.asdict(views),
    )
    batches = data.batches_of(source, None, args.batch_size, args.num_workers, views)
    progress = Progress(
        "encode", -(-len(source) // args.batch_size), items=args.batch_size, noun="images"
    )
    written = 0
    with writer:
        for step, (codes, labels) in enumerate(_encode(run, batches), 1):
            for views_codes, label in zip(codes, labels, strict=True):
                writer.write(views_codes, label)
            written += len(labels)
            progress.update(step, "")
    progress.close()
    if written < len(source):
        log.warning(
            "left out %d of %d images that could not be read", len(source) - written, len(source)
        )
    log.info("wrote the latents of %d images to %s", written, out)


def _source(dataset: str | None, split: str, data: RunData) -> Source:
    """The images to encode: a split of the run's own, or of a data set or a folder."""
    if dataset is None:
        return data.split(split)
    if dataset == "shapes":
        return make_source("shapes", split, size=data.image_size)
    if Path(dataset).is_dir():
        return make_source("folder", split, path=dataset)
    return make_source("tfds", split, dataset=dataset)


def _encode(run: TrainedTokenizer, batches) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Latents [B, V, *grid, ...] and labels [B] of the images that could be read."""
    for batch in batches:
        pixels = batch["image"]  # [B, V, H, W, 3]
        codes = run.store(pixels.reshape(-1, *pixels.shape[2:]))
        read = batch["mask"] > 0
        yield codes.reshape(*pixels.shape[:2], *codes.shape[1:])[read], batch["label"][read]


if __name__ == "__main__":
    sys.exit(cli.run(main))
