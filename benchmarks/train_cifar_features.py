"""Trains the network of `--features fd_cifar`.

    python -m benchmarks.train_cifar_features --data_dir TFDS_DIR --out fd_cifar.safetensors

The file names its test accuracy in its metadata, and results that use it carry its hash.
"""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.cifar_classifier import accuracy_on, fit
from imgen.data import make_source
from imgen.data.loader import eval_batches
from imgen.data.preprocess import EvalImages
from imgen.evaluation.networks.cifar import SIZE, save
from imgen.runs import cli

log = logging.getLogger("imgen.train_cifar_features")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="benchmarks.train_cifar_features", description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", metavar="DIR", help="TFDS folder (default: TFDS_DATA_DIR)")
    parser.add_argument("--dataset", default="cifar10", help="its name there")
    parser.add_argument("--out", required=True, metavar="FILE", help=".safetensors to write")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--width", type=int, default=32, help="channels at 16x16")
    parser.add_argument("--learning_rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if min(args.steps, args.batch_size) < 1 or args.width < 8 or args.width % 8:
        parser.error("--steps and --batch_size must be at least 1, --width a multiple of 8")
    cli.use_compilation_cache()
    out = Path(args.out)
    cli.make_workdir(out.parent, "--out")
    train, test = (_read(split, args) for split in ("train", "test"))
    began = time.monotonic()
    model, params = fit(*train, steps=args.steps, batch_size=args.batch_size, width=args.width,
                        learning_rate=args.learning_rate, seed=args.seed)  # fmt: skip
    accuracy = accuracy_on(model, params, *test)
    settings = {
        k: getattr(args, k) for k in ("dataset", "steps", "batch_size", "learning_rate", "seed")
    }
    save(out, params, args.width, settings | {"test_accuracy": round(accuracy, 4)})
    log.info("test accuracy %.4f after %.0f s: %s", accuracy, time.monotonic() - began, out)


def _read(split: str, args) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels int32 [N] of a split."""
    source = make_source("tfds", split, dataset=args.dataset, data_dir=args.data_dir)
    images, labels = [], []
    for batch in eval_batches(source, EvalImages(SIZE), batch_size=500):
        read = batch["mask"] > 0
        images.append(batch["image"][read])
        labels.append(batch["label"][read])
    return np.concatenate(images), np.concatenate(labels)


if __name__ == "__main__":
    sys.exit(cli.run(main))
