"""Kills a training command at random moments and compares what it leaves with an undisturbed run.

Works for any command that trains into a workdir: the toy of these tests and `imgen.train` alike.
"""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from imgen.params import paths
from imgen.report.metrics_log import SPEED_FIELDS, read_metrics


def run(
    command: list[str], env: dict[str, str], timeout: float = 300
) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=env, timeout=timeout, capture_output=True, text=True)


def environment(devices: int = 1) -> dict[str, str]:
    """Of a command on so many devices, which compiles as quickly as the tests do."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    return {**os.environ, "XLA_FLAGS": flags}


def kill_at_random(
    command: list[str], workdir: Path, env: dict[str, str], *, kills: int, rows: int, seed: int
) -> list[int]:
    """Starts `command` and SIGKILLs it, `kills` times, each time when metrics.jsonl has reached a
    random number of rows, larger than the last one, and a random moment more has passed.

    rows: what the undisturbed run writes. Returns the numbers of rows at the kills. Fails if the
    command ends before it could be killed: then nothing was shown.
    """
    rng = random.Random(seed)
    targets = sorted(rng.sample(range(1, rows), kills))
    for target in targets:
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(read_metrics(workdir / "metrics.jsonl")) < target:
            assert process.poll() is None, "the command ended before it was killed"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        assert process.poll() is None, "the command ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    return targets


def final_arrays(workdir: Path, stage: str) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint of a stage, by path."""
    steps = [p for p in (workdir / "checkpoints" / stage).iterdir() if p.name.isdigit()]
    newest = max(steps, key=lambda p: int(p.name))
    here, arrays = jax.sharding.SingleDeviceSharding(jax.devices()[0]), {}
    for item in sorted(p for p in newest.iterdir() if p.is_dir() and p.name != "meta"):
        args = ocp.args.StandardRestore(fallback_sharding=here)
        restored = ocp.Checkpointer(ocp.StandardCheckpointHandler()).restore(item, args=args)
        arrays |= {f"{item.name}/{k}": np.asarray(v) for k, v in paths.flatten(restored).items()}
    return arrays


def exact_rows(workdir: Path) -> list[dict]:
    """The metrics without what measures the machine."""
    return [
        {k: v for k, v in row.items() if k not in SPEED_FIELDS}
        for row in read_metrics(workdir / "metrics.jsonl")
    ]


def assert_same_run(one: Path, other: Path, stages: list[str]) -> None:
    """Bit-identical parameters, moments and averages, and the same metrics row for row."""
    assert exact_rows(one) == exact_rows(other)
    for stage in stages:
        a, b = final_arrays(one, stage), final_arrays(other, stage)
        assert a.keys() == b.keys()
        for path in a:
            assert a[path].dtype == b[path].dtype
            assert np.array_equal(a[path], b[path]), f"{stage}: {path} differs"
