"""imgen.evaluate on a mesh in which the devices of the processes take turns, as on a TPU pod they may."""

import itertools
import sys

import jax

from imgen import evaluate
from imgen.runs import cli

make_mesh = jax.make_mesh


def interleaved(sizes, names, *, devices, **how):
    processes = {device.process_index for device in devices}
    own = [[d for d in devices if d.process_index == process] for process in processes]
    turns = [*itertools.chain.from_iterable(zip(*own, strict=True))]
    return make_mesh(sizes, names, devices=turns, **how)


if __name__ == "__main__":
    jax.make_mesh = interleaved
    sys.exit(cli.run(evaluate.main, log_to=sys.stderr))
