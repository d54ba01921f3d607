"""Measures a trained run, or images: `python -m imgen.evaluate --workdir RUN | --samples A.npz|DIR ...`.

Prints one JSON object, and adds it to RUN/evaluation.json, DIR/evaluation.json or A.evaluation.json, which
keep a list of results for each name, one of each protocol and settings. All files and images are opened
before anything is measured.
Metrics of a run on its held-out data, which are the default, each with its protocol:
  reconstruction  of the tokenizer: PSNR, SSIM, tokens and bits an image, usage of codes or bits
  prefixes        PSNR and SSIM from the first 1, 2, 4, ... tokens, of tokenizers that can decode them
  likelihood      cross-entropy of the generator, in nats per code and per image
  error           of a generator without likelihood (flows, diffusions): its squared error
  baselines       of the same codes: their unigram entropy, and an add-one bigram model of the training codes
Metrics of images by the features of a network (--features), as records under "results", each with the
protocol that it was measured by, the published values of an equal one ("published"), and those of which the
source leaves out some of it ("published_partly"):
  fid, sfid, is, precision_recall, kid, cmmd        of --samples, or of what the run's generator draws
  rfid, rsfid, ris, rprecision_recall, rkid, rcmmd  of the run's reconstructions of its held-out data
  psnr, ssim, ssim_uniform7, ssim_uniform7_range2, lpips  of reconstructions, or of --samples, by pairs
  clipscore                                         of --samples and their --prompts
Results of reconstructions name their reference: rfid_val (held-out data, the default), rfid_train, else
rfid. The Inception Score of samples is the mean of those of 5,000 consecutive ones each, so samples should
come with their classes mixed, as imgen.sample draws them; that of reconstructions is one of all. A
--reference beside `is` says which data the samples imitate.
--reference is what they are held against: FILE.npz of images or of statistics (--write_reference writes
one), a folder, tfds:NAME:SPLIT, or train or eval, the run's own data (default: train; of reconstructions
eval); for cmmd FILE.npy of embeddings too. cmmd and clipscore look at images with CLIP (--clip_weights), of
any size, which is read from safetensors of Hugging Face or open_clip as they are. lpips takes VGG's or
AlexNet's weights (--lpips_weights) and says which: lpips_vgg, lpips_alex. --resize_to N resizes samples
first, as LlamaGen's of 384. Published values are compared with samples of imgen.sample's samples.npz, which
tells how they were drawn, and of a run; not with files that don't tell.
`--metrics geneval|visor|t2i_compbench_spatial --detections FILE` scores stored detections instead
(`imgen.evaluation.prompts.stored_detections` says in which format) and writes FILE with .METRIC.json for its
suffix.
"""

import dataclasses
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from imgen.conditioning.conditions import LABELS
from imgen.errors import UserError
from imgen.evaluation.metrics import METRICS, check_metrics, of_kind
from imgen.evaluation.networks.registry import NETWORKS
from imgen.evaluation.prompts import stored_detections
from imgen.evaluation.prompts.clip_score import PAPER_SCALE, PERCENT
from imgen.evaluation.results import results_file
from imgen.params import paths
from imgen.runs import cli, held_out, measuring, sampling
from imgen.runs.measured_images import Request
from imgen.runs.run import Run

log = logging.getLogger("imgen.evaluate")
OF_DETECTIONS = ("detector", "prompt_rewrite")  # flags that go with --detections only


def main(argv: Sequence[str] | None = None) -> None:
    parser = _parser()
    args = parser.parse_args(argv)
    numbers = args.num, args.reference_num, args.image_size, args.resize_to, args.batch_size
    if any(number is not None and number < 1 for number in numbers):
        parser.error(
            "--num, --reference_num, --image_size, --resize_to and --batch_size must be at least 1"
        )
    if empty := [n for n, value in vars(args).items() if value == "" and n != "clip_prefix"]:
        parser.error(f"--{empty[0]} is empty: give it a value or leave it out")
    if args.write_reference and not args.write_reference.endswith(".npz"):
        parser.error("--write_reference must end in .npz")
    if args.detections is not None:
        others = _given(parser, args) - {"metrics", "detections", *OF_DETECTIONS}
        if others:
            parser.error(
                f"--{', --'.join(sorted(others))}: not with --detections, of which all images are scored as "
                "they are"
            )
        return stored_detections.main(
            args.metrics, args.detections, args.detector, args.prompt_rewrite
        )
    if others := _given(parser, args).intersection(OF_DETECTIONS):
        parser.error(f"--{', --'.join(sorted(others))}: only with --detections")
    cli.join(args.distributed)
    cli.use_compilation_cache()
    path = _beside(args)
    if path and jax.process_index() == 0:
        try:
            measuring.check_writable(path, "the results will only be printed")
        except UserError as error:
            log.warning("%s", error)
    result = _of_run(args) if args.workdir else _of_samples(args)
    if jax.process_index() == 0:
        _check_finite(result)
        print(json.dumps(result, indent=2, allow_nan=False), flush=True)
        if path:
            results_file.add(path, result)


def _check_finite(result: dict[str, Any]) -> None:
    """Raises UserError for NaN and infinity, which JSON has no words for."""
    for where, value in paths.flatten(result).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(
                f"{where} is {value}: look for NaN in the weights, or leave that metric out"
            )


def _given(parser: cli.Parser, args) -> set[str]:
    """The flags whose value is not the default."""
    return {name for name, value in vars(args).items() if value != parser.get_default(name)}


def _parser() -> cli.Parser:
    parser = cli.Parser(prog="imgen.evaluate", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--workdir", metavar="RUN", help="a trained run")
    what.add_argument(
        "--samples", metavar="A.npz|DIR|tfds:NAME:SPLIT", help="images: uint8 arr_0, files"
    )
    what.add_argument(
        "--detections", metavar="FILE", help="detections of objects in images, stored"
    )
    parser.add_argument(
        "--metrics",
        help=f"of a run: {', '.join(held_out.MEASURES)} (default: those that it has); of images: "
        f"{', '.join(METRICS)}; of detections: one of {', '.join(stored_detections.BENCHMARKS)}",
    )
    parser.add_argument(
        "--num", type=int,
        help="samples (default: 50,000 of a run, all of a file), or held-out images (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--batch_size", type=int, default=128,
        help="images at a time, for metrics of images on each device (default 128)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    _add_images(parser.add_argument_group("the images and what they are measured against"))
    _add_networks(parser.add_argument_group("the networks that look at images"))
    _add_prompts(parser.add_argument_group("prompts (clipscore) and detections"))
    samples = parser.add_argument_group("samples of a run")
    samples.add_argument(
        "--class_balance", choices=LABELS, default=LABELS[0],
        help="classes of samples: equally many of each, or drawn (default balanced)",
    )  # fmt: skip
    sampling.add_flags(samples)
    cli.add_distributed(parser)
    return parser


def _add_images(group) -> None:
    group.add_argument(
        "--reference", metavar="FILE.npz|FILE.npy|DIR|tfds:NAME:SPLIT|train|eval",
        help="images, statistics (.npz), embeddings (.npy), or the run's own data (default: train; of "
        "reconstructions eval)",
    )  # fmt: skip
    group.add_argument(
        "--reference_num", type=int, help="its first images, not of statistics (default: all)"
    )
    group.add_argument("--write_reference", metavar="FILE", help="write its statistics, .npz")
    group.add_argument(
        "--image_size", type=int, help="crop images of folders and data sets to it, as ADM does"
    )
    group.add_argument(
        "--resize_to", type=int, metavar="N",
        help="resize samples to N pixels a side before (bicubic without antialiasing), as LlamaGen's of 384",
    )  # fmt: skip
    group.add_argument("--data_dir", metavar="DIR", help="of tfds: (default: TFDS_DATA_DIR)")


def _add_networks(group) -> None:
    group.add_argument("--features", default="adm", help=f"of {', '.join(NETWORKS)} (default adm)")
    group.add_argument(
        "--features_weights", "--inception_weights", metavar="FILE", help="the network's weights"
    )
    group.add_argument("--lpips_weights", metavar="FILE", help="of lpips, by VGG or AlexNet")
    group.add_argument(
        "--clip_weights", metavar="FILE|DIR",
        help="of cmmd and clipscore: .safetensors, or a folder of the Hugging Face hub",
    )  # fmt: skip
    group.add_argument(
        "--clip_vocab", metavar="FILE|DIR",
        help="of clipscore: bpe_simple_vocab_16e6.txt.gz, or a folder of the Hugging Face hub",
    )  # fmt: skip


def _add_prompts(group) -> None:
    group.add_argument(
        "--prompts", metavar="FILE",
        help="of clipscore: a line for each image, in their order (2.png is before 10.png)",
    )  # fmt: skip
    group.add_argument(
        "--clip_prefix", default="",
        help="put before each prompt (default none; of the paper: 'A photo depicts')",
    )  # fmt: skip
    group.add_argument(
        "--clip_scale", type=float, default=PERCENT,
        help=f"of clipscore (default {PERCENT:g}; of the paper: {PAPER_SCALE:g})",
    )  # fmt: skip
    group.add_argument(
        "--detector", metavar="NAME",
        help="that found --detections, if they don't say; GenEval's own is "
        f"{stored_detections.OFFICIAL['geneval']}, VISOR's {stored_detections.OFFICIAL['visor']}",
    )  # fmt: skip
    group.add_argument(
        "--prompt_rewrite", action="store_true",
        help="the images of --detections were drawn from prompts that a language model had rewritten",
    )  # fmt: skip


def _of_run(args) -> dict[str, Any]:
    run = Run(args.workdir, args.checkpoint)
    own = held_out.measurable(run.experiment)
    metrics = _chosen(args.metrics, own, (*own, *measuring.metrics_of_run(run.experiment)))
    of_images = [metric for metric in metrics if metric not in own]
    measurement = measuring.Measurement(_request(args, of_images), run) if of_images else None
    on = held_out.HeldOut(run, args.num, args.batch_size)
    result: dict[str, Any] = {"workdir": args.workdir, "split": run.experiment.data.eval_split}
    result |= {metric: held_out.measured(metric, on) for metric in metrics if metric in own}
    return result | {"results": measurement()} if measurement else result


def _of_samples(args) -> dict[str, Any]:
    if not args.metrics:
        raise UserError("--metrics is needed with --samples, e.g. --metrics fid,is")
    metrics = _chosen(args.metrics, (), of_kind("samples", "pairs", "prompts"))
    return {"samples": args.samples, "results": measuring.Measurement(_request(args, metrics))()}


def _request(args, metrics: Sequence[str]) -> Request:
    own = {"metrics": tuple(metrics), "choices": sampling.choices(args)}
    flags = {field.name for field in dataclasses.fields(Request)} - own.keys()
    return Request(**own, **{name: getattr(args, name) for name in flags})


def _chosen(text: str | None, default: Sequence[str], known: Sequence[str]) -> list[str]:
    metrics = list(dict.fromkeys(text.split(","))) if text else list(default)
    check_metrics(metrics, known, "--metrics")
    return metrics


def _beside(args) -> Path | None:
    """Where the result goes; None for a data set's own images, and for what is missing, which is an error."""
    if args.samples and args.samples.startswith("tfds:"):
        return None
    where = Path(args.workdir or args.samples).expanduser()
    if not where.exists():
        return None
    return where / "evaluation.json" if where.is_dir() else where.with_suffix(".evaluation.json")


if __name__ == "__main__":
    sys.exit(cli.run(main, log_to=sys.stderr))
