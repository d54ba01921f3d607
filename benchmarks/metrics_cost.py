"""Time and memory of the statistics behind FID and its kin, on features that are already there.

    python -m benchmarks.metrics_cost [--num 50000] [--reference 10000] [--width 2048] [--only fid,kid]

Prints a JSON line for each statistic, and one of their sum. Features are drawn at random, half of them 0 as
after a ReLU; drawing them is not timed. cpu_seconds over cores is about what an idle machine would take (on a
busy one set OPENBLAS_NUM_THREADS=1, or BLAS threads that wait for each other count as work);
peak_gib is of the whole process, features and JAX included, up to and with that statistic.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from imgen.errors import UserError
from imgen.evaluation.sets.cmmd import cmmd
from imgen.evaluation.sets.frechet import frechet_distance
from imgen.evaluation.sets.inception_score import inception_score
from imgen.evaluation.sets.kernel_distance import kernel_distance
from imgen.evaluation.sets.moments import Gaussian, Moments
from imgen.evaluation.sets.precision_recall import precision_recall
from imgen.runs import cli

SPATIAL = 2023  # features of sFID
CLASSES = 1008
CLIP = 768
BATCH = 250  # features that come at a time
DEFAULT = ("fid", "sfid", "is", "kid", "precision_recall")


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="benchmarks.metrics_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--num", type=int, default=50_000, help="samples")
    parser.add_argument("--reference", type=int, default=10_000, help="images of the reference")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--only", help=f"of {', '.join(DEFAULT)}, cmmd (default: all but cmmd)")
    args = parser.parse_args(argv)
    cli.use_compilation_cache()
    statistics = _statistics(args.num, args.reference, args.width)
    names = args.only.split(",") if args.only else DEFAULT
    for name in names:
        if name not in statistics:
            raise UserError(f"--only {name!r} is none of {', '.join(statistics)}")
    setup = {
        "samples": args.num,
        "reference": args.reference,
        "width": args.width,
        "device": jax.devices()[0].device_kind,
        "cores": os.cpu_count(),
    }
    print(json.dumps(setup | {"peak_gib": _peak(), "load": os.getloadavg()[0]}), flush=True)
    total = {"seconds": 0.0, "cpu_seconds": 0.0}
    for name in names:
        seconds, cpu = time.monotonic(), time.process_time()
        value = statistics[name]()
        took = {
            "seconds": time.monotonic() - seconds,
            "cpu_seconds": time.process_time() - cpu,
        }
        total = {key: total[key] + took[key] for key in total}
        took = {key: round(value, 2) for key, value in took.items()}
        print(
            json.dumps({"statistic": name, "value": value, **took, "peak_gib": _peak()}), flush=True
        )
    total = {key: round(value, 2) for key, value in total.items()}
    print(json.dumps({"statistic": "all", **total, "peak_gib": _peak()}))


def _statistics(num: int, reference: int, width: int) -> dict[str, Callable[[], float]]:
    """All of the same features."""
    samples, real = _features(num, width, 0), _features(reference, width, 1)

    def frechet(columns: int) -> float:
        there = Gaussian(np.full(columns, 0.4), np.eye(columns), num)  # comes from a file
        return frechet_distance(_streamed(samples[:, :columns]), there)

    def score() -> float:
        head = np.random.default_rng(2).standard_normal((width, CLASSES), np.float32) / width**0.5
        return inception_score(samples @ head)

    return {
        "fid": lambda: frechet(width),
        "sfid": lambda: frechet(min(SPATIAL, width)),
        "is": score,
        "kid": lambda: kernel_distance(samples, real)[0],
        "precision_recall": lambda: list(precision_recall(samples, real)),
        "cmmd": lambda: cmmd(samples[:, :CLIP], real[:, :CLIP]),
    }


def _streamed(features: np.ndarray) -> Gaussian:
    moments = Moments(features.shape[1])
    for start in range(0, len(features), BATCH):
        moments.add(features[start : start + BATCH])
    return moments.gaussian(len(features))


def _features(count: int, width: int, seed: int) -> np.ndarray:
    features = np.random.default_rng(seed).standard_normal((count, width), np.float32)
    return np.maximum(features, 0.0, out=features)


def _peak() -> float:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kib / 2**20, 2)


if __name__ == "__main__":
    sys.exit(cli.run(main))
