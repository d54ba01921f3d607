"""A recipe through the commands: trained, resumed, evaluated and sampled."""

import json
from pathlib import Path

import numpy as np

from imgen import evaluate, sample, train
from imgen.runs import cli


def run_recipe(name: str, run: Path, *overrides: str) -> list[dict]:
    """Trains; returns the logged rows of the generator's stage."""
    argv = ["--config", name, "--workdir", str(run), *(f"--config.{o}" for o in overrides)]
    assert cli.run(lambda: train.main(argv)) == 0
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == "generator"]


def losses(rows: list[dict]) -> np.ndarray:
    return np.asarray([row["loss"] for row in rows if "loss" in row])


def measure(run: Path, metrics: str, capsys) -> dict:
    capsys.readouterr()
    argv = ["--workdir", str(run), "--metrics", metrics]
    assert cli.run(lambda: evaluate.main(argv)) == 0
    return json.loads(capsys.readouterr().out)


def draw(run: Path, out: Path, *flags: str) -> np.ndarray:
    """Samples of a run, uint8 [N, H, W, 3]."""
    argv = ["--workdir", str(run), "--out", str(out), "--num", "3", *flags]
    assert cli.run(lambda: sample.main(argv)) == 0
    return np.load(out / "samples.npz")["arr_0"]


def refused(run: Path, out: Path, *flags: str) -> bool:
    """Whether these settings of sampling are refused."""
    argv = ["--workdir", str(run), "--out", str(out), "--num", "3", *flags]
    return cli.run(lambda: sample.main(argv)) == 2
