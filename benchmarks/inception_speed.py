"""Images a second of FID's Inception: ours, and the same network and weights in PyTorch beside it.

    pip install 'imgen[benchmark]'
    python -m benchmarks.inception_speed [--batch_size 16] [--image_size 256] [--seconds 30]

From uint8 images to all features (pytorch-fid's resize, random weights). First the outputs are held against
each other; then all have turns, PyTorch also with its channels last, and each gets the median. One JSON line
each: cpu_seconds are those of an image on all cores together, which other work on the machine changes least.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from benchmarks.comparison import in_turns
from imgen.errors import UserError
from imgen.evaluation.networks.feature_network import FeatureNetwork
from imgen.evaluation.networks.fid_inception import random_inception
from imgen.interop.inception import SYSTEM
from imgen.runs import cli

Run = Callable[[], dict[str, np.ndarray]]


def main(argv: Sequence[str] | None = None) -> None:
    parser = cli.Parser(prog="benchmarks.inception_speed", description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=30.0, help="for each network")
    args = parser.parse_args(argv)
    if min(args.batch_size, args.image_size) < 1:
        parser.error("--batch_size and --image_size must be at least 1")
    try:
        import torch
    except ImportError as error:
        raise UserError("PyTorch is not there: pip install 'imgen[benchmark]'") from error
    cli.use_compilation_cache()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)

    network = random_inception("pytorch_fid")
    shape = (args.batch_size, args.image_size, args.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    runs = {"ours": ours(network, images), **theirs(network, images)}
    setup = {
        "device": jax.devices()[0].device_kind,
        "cores": cores,
        "batch_size": args.batch_size,
        "image_size": args.image_size,
        "torch": torch.__version__,
        "jax": jax.__version__,
    }
    print(json.dumps(setup | {"load": os.getloadavg()[0]}), flush=True)
    print(json.dumps({"largest_difference": difference(runs["ours"](), runs["torch"]())}))
    cpu: dict[str, list[float]] = {name: [] for name in runs}

    def turn(name: str) -> Callable[[int], None]:
        def once(_: int) -> None:
            began = time.process_time()
            runs[name]()
            cpu[name].append((time.process_time() - began) / args.batch_size)

        return once

    speeds = in_turns({name: (turn(name), args.batch_size) for name in runs}, args.seconds)
    for name, speed in speeds.items():
        row = {
            "network": name,
            "images_per_second": speed,
            "cpu_seconds": round(statistics.median(cpu[name]), 4),
            "ratio": round(speed / speeds["torch"], 2),
        }
        print(json.dumps(row | {"load": round(os.getloadavg()[0], 2)}), flush=True)


def ours(network: FeatureNetwork, images: np.ndarray) -> Run:
    params, apply = jax.device_put(network.params), jax.jit(network.apply)
    return lambda: jax.device_get(apply(params, images))


def theirs(network: FeatureNetwork, images: np.ndarray) -> dict[str, Run]:
    import torch

    from benchmarks.torch_inception import Inception

    state = {key: torch.from_numpy(x) for key, x in SYSTEM.to_official(network.params).items()}
    given = torch.from_numpy(images)

    def run(layout: torch.memory_format) -> Run:
        module = Inception()
        module.load_state_dict(state)
        module = module.eval().to(memory_format=layout)

        @torch.inference_mode()
        def once() -> dict[str, np.ndarray]:
            return {name: x.numpy() for name, x in module(given).items()}

        return once

    return {
        "torch": run(torch.contiguous_format),
        "torch_channels_last": run(torch.channels_last),
    }


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Of each feature the largest difference, as a share of the largest value."""
    return {
        name: float(np.abs(ours[name] - x).max() / np.abs(x).max()) for name, x in theirs.items()
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
