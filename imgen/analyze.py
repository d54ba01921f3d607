"""Statistics of a tokenizer's codes: `python -m imgen.analyze --workdir RUN --out DIR`, or `--codes FOLDER`.

Encodes a split with a run's tokenizer, or reads codes that imgen.encode wrote (of several crops the centre
one), and prints one JSON object: Zipf, entropy, Huffman compression, growth of the vocabulary, Benford, how
far bits are from independent, agreement with segments (--segments). Writes DIR/stats.json (the same),
ranks.csv (for each frequency the ranks that have it), innovation.csv and report.html.

Numbers of two or more codes in a row depend on the sample size (tokens_n) and on the order in which a grid is
read (--scan): the same numbers of shuffled codes stand beside them.
"""

import contextlib
import csv
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from imgen.data.loader import eval_batches
from imgen.data.preprocess import EvalCodes
from imgen.data.stored import Latents
from imgen.errors import UserError
from imgen.evaluation.tokens.report import analyse
from imgen.evaluation.tokens.scans import SCANS, scan_order
from imgen.latents import LatentSpec
from imgen.parallel import prefetch
from imgen.report.progress import Progress
from imgen.runs import cli
from imgen.runs.run import Run


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="imgen.analyze", description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", metavar="RUN", help="a run with a trained tokenizer")
    parser.add_argument("--codes", metavar="FOLDER", help="codes that imgen.encode wrote")
    parser.add_argument("--split", help="default: the run's held-out split, or the only one there")
    parser.add_argument("--num", type=int, help="images (default: all)")
    parser.add_argument("--scan", default="row", choices=SCANS, help="order of a 2D grid's codes")
    parser.add_argument("--max_ngram", type=int, default=3, help="codes in a row (default 3)")
    parser.add_argument(
        "--segments",
        action="append",
        default=[],
        metavar="FILE",
        help=".npy of integer labels [images, positions], for each level of segments one",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the images' order and of controls")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--out", required=True, metavar="DIR")
    args = parser.parse_args(argv)
    if (args.workdir is None) == (args.codes is None):
        parser.error("give one of --workdir and --codes")
    if min(args.batch_size, args.max_ngram, 1 if args.num is None else args.num) < 1:
        parser.error("--num, --max_ngram and --batch_size must be at least 1")
    if args.seed < 0:
        parser.error("--seed must be at least 0")
    cli.use_compilation_cache()
    out = cli.make_workdir(args.out, "--out")

    opened = (of_run if args.workdir else of_folder)(args)
    spec = opened.spec
    if spec.kind == "continuous":
        raise UserError("this tokenizer's latents are continuous: there are no codes to count")
    scan_order(args.scan, spec.grid)  # what is wrong is said before anything is encoded
    segments = read_segments(args.segments, opened.images, spec)
    latents, read = collect(opened, args.batch_size)
    result, curves = analyse(
        latents,
        spec,
        scan=args.scan,
        max_ngram=args.max_ngram,
        segments={name: labels[read] for name, labels in segments.items()},
        seed=args.seed,
    )
    about = {"source": args.workdir or args.codes, "split": opened.split, "kind": spec.kind}
    about |= {"grid": list(spec.grid), "size": spec.size, "scan": args.scan, "seed": args.seed}
    result = plain({**about, **result})
    text = json.dumps(result, indent=2, allow_nan=False)
    (out / "stats.json").write_text(text + "\n")
    write_ranks(out / "ranks.csv", curves["counts"])
    seen = curves["distinct_after_image"]
    write_table(out / "innovation.csv", ("images", "distinct"), enumerate(seen.tolist(), 1))
    from imgen.report import code_statistics  # here, for matplotlib's import takes a second

    code_statistics.write(out / "report.html", result, curves)
    print(text)


class Opened(NamedTuple):
    """Images or stored codes: spec of the latents, split, number of images, batches with a "mask", and
    how a batch becomes latents."""

    spec: LatentSpec
    split: str
    images: int
    batches: Iterator[dict[str, np.ndarray]]
    encode: Callable[[dict[str, np.ndarray]], np.ndarray]


def of_run(args) -> Opened:
    """Images of a split, to be encoded by a run's tokenizer."""
    opened = Run(args.workdir)
    run, data = opened.tokenizer(), opened.experiment.data
    if not data.stores_images:
        raise UserError(
            f"{args.workdir} was trained on stored codes: name their folder with --codes"
        )
    if run.module.padded:
        raise UserError(
            f"the tokenizer of {args.workdir} gives images unlike numbers of codes, padded to the longest: "
            "their statistics are not defined here"
        )
    split = args.split or data.eval_split
    source = data.split(split)
    images = min(args.num or len(source), len(source))
    batches = data.batches_of(source, images, args.batch_size)
    return Opened(run.spec, split, images, batches, lambda batch: run.encode(batch["image"]))


def of_folder(args) -> Opened:
    """Stored codes: in the folder itself or in its folder of the split."""
    split = stored_split(Path(args.codes).expanduser(), args.split)
    source = Latents(split, path=args.codes)
    images = min(args.num or len(source), len(source))
    batches = eval_batches(source, EvalCodes(), batch_size=args.batch_size, num_examples=images)
    return Opened(source.spec, split, images, batches, lambda batch: batch["codes"])


def stored_split(folder: Path, asked: str | None) -> str:
    """The split to read: the one asked for, or the only one in a folder and its sub-folders."""
    found = sorted(p for p in (folder / "spec.json", *folder.glob("*/spec.json")) if p.is_file())
    splits = []
    for path in found:
        try:
            splits.append(json.loads(path.read_text())["split"])
        except (ValueError, KeyError) as error:
            raise UserError(f"{path} is not as imgen.encode writes it: encode again") from error
    if not splits:
        raise UserError(f"{folder} holds no codes (no spec.json); write them with imgen.encode")
    if asked not in splits and (asked or len(splits) > 1):
        raise UserError(f"{folder} holds {', '.join(splits)}: choose one with --split")
    return asked or splits[0]


def collect(opened: Opened, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents of the images that can be read, int32 or bits uint8, and bool [images]: which these are."""
    dtype = np.uint8 if opened.spec.kind == "bits" else np.int32
    total = -(-opened.images // batch_size)
    progress = Progress("codes", total, items=batch_size, noun="images")
    latents, read = [], []
    with contextlib.closing(progress), prefetch.closing(opened.batches):
        for done, batch in enumerate(opened.batches, 1):
            read.append(batch["mask"] > 0)
            latents.append(np.asarray(opened.encode(batch), dtype)[read[-1]])
            progress.update(done)
    latents, read = np.concatenate(latents), np.concatenate(read)[: opened.images]
    if not read.any():
        raise UserError("no image could be read")
    return latents, read


def read_segments(files: list[str], images: int, spec: LatentSpec) -> dict[str, np.ndarray]:
    """Labels [images, positions] by the file's name without its ending."""
    found = {}
    for file in files:
        try:
            labels = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"--segments {file} cannot be read as a .npy file: {error}") from error
        if not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"--segments {file} holds {labels.dtype}, not integer labels")
        shape = (images, spec.positions)
        if labels.shape not in (shape, (images, *spec.grid)):
            raise UserError(
                f"--segments {file} has shape {labels.shape}: {images} images of {spec.positions} "
                f"positions need {shape}"
            )
        found[Path(file).stem] = labels.reshape(shape)
    return found


def plain(value):
    """Arrays as lists, numpy's numbers as Python's, what is not finite as None: ready for JSON."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_ranks(path: Path, counts: dict[str, np.ndarray]) -> None:
    """One line for each frequency: types of ranks `rank` to `last_rank` occur so often."""

    def lines():
        for name, sizes in counts.items():
            last = np.flatnonzero(np.diff(sizes, append=0)) + 1
            first = np.concatenate([[1], last[:-1] + 1])
            for rank, end in zip(first.tolist(), last.tolist(), strict=True):
                yield name, rank, end, int(sizes[rank - 1])

    write_table(path, ("n", "rank", "last_rank", "frequency"), lines())


def write_table(path: Path, header: Sequence[str], lines) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(lines)


if __name__ == "__main__":
    sys.exit(cli.run(main, log_to=sys.stderr))
