"""Every row of CONTRIBUTING.md's table: a part that somebody adds from outside takes part in training.

`mine.py` is that somebody's file; the registries are put back after it.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from imgen import sample, train
from imgen.data import SOURCES
from imgen.generators import PLANS
from imgen.runs import cli
from imgen.tokenizers import TOKENIZERS
from imgen.training.optim import SCALINGS

REGISTRIES = {
    "order": PLANS, "tokenizer": TOKENIZERS, "data source": SOURCES, "optimiser": SCALINGS,
}  # fmt: skip
MINE = Path(__file__).with_name("mine.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the config in mine.py, trained by the command."""
    before = {name: dict(registry) for name, registry in REGISTRIES.items()}
    workdir = tmp_path_factory.mktemp("extending") / "run"
    argv = ["--config", str(MINE), "--workdir", str(workdir)]
    try:
        assert cli.run(lambda: train.main(argv)) == 0
        yield workdir
    finally:
        for name, registry in REGISTRIES.items():
            registry.clear()
            registry.update(before[name])


def rows(run, stage):
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["stage"] == stage]


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_part_from_outside_is_in_its_registry(run, kind):
    assert any(part.__module__ == f"imgen_config_{MINE.stem}" for part in REGISTRIES[kind].values())


def test_a_tokenizer_and_a_source_from_outside_are_trained(run):
    losses = [row["loss"] for row in rows(run, "tokenizer") if "loss" in row]
    assert losses[-1] < losses[0]


def test_an_optimiser_from_outside_takes_its_steps(run):
    assert "palette" in (run / "parameters_tokenizer.txt").read_text()


def test_an_order_from_outside_is_the_one_that_is_decoded(run):
    plan = PLANS["spiral"]((3, 4))
    order = np.argsort(plan.rank)  # of slots; the first is the condition's
    fed = plan.src[order][1:].tolist()
    assert fed == [0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5]  # 6 is decided last and never fed


def test_the_run_is_sampled_like_any_other(run, tmp_path):
    argv = ["--workdir", str(run), "--out", str(tmp_path), "--num", "3", "--labels", "0,1,2"]
    assert cli.run(lambda: sample.main(argv)) == 0
    assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (3, 16, 16, 3)


def test_the_table_names_what_is_tested():
    text = (MINE.parents[2] / "CONTRIBUTING.md").read_text()
    for what in REGISTRIES:
        assert re.search(rf"^\| an? {what}", text, re.MULTILINE), what
