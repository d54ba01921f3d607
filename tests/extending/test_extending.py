"""Every row of CONTRIBUTING.md's table: a part that somebody adds from outside takes part in training.

`mine.py` is that somebody's file; the registries are put back after it.
"""

import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imgen import evaluate, sample, train
from imgen.data import SOURCES
from imgen.decoding import SAMPLERS, draw_latents, network_calls
from imgen.evaluation.metrics import METRICS
from imgen.generators.build import HEADS, LATENTS, PLANS
from imgen.generators.schemes import SCHEMES
from imgen.runs import cli
from imgen.runs.run import Run
from imgen.tokenizers import TOKENIZERS
from imgen.training.optim import SCALINGS

REGISTRIES = {
    "order": PLANS, "head": HEADS, "tokenizer": TOKENIZERS, "metric": METRICS, "optimiser": SCALINGS,
    "data source": SOURCES, "sampler": SAMPLERS,
}  # fmt: skip
BESIDE = (LATENTS, SCHEMES)  # which heads are for which latents; which samplers draw from what
BEFORE = {kind: set(registry) for kind, registry in REGISTRIES.items()}
MINE = Path(__file__).with_name("mine.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the config in mine.py, trained by the command."""
    registries = (*REGISTRIES.values(), *BESIDE)
    before = [dict(registry) for registry in registries]
    workdir = tmp_path_factory.mktemp("extending") / "run"
    argv = ["--config", str(MINE), "--workdir", str(workdir)]
    try:
        assert cli.run(lambda: train.main(argv)) == 0
        yield workdir
    finally:
        for registry, entries in zip(registries, before, strict=True):
            registry.clear()
            registry.update(entries)


def rows(run, stage):
    found = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["stage"] == stage]


@pytest.mark.parametrize("kind", REGISTRIES)
def test_one_entry_of_a_registry_names_a_part(run, kind):
    assert len(REGISTRIES[kind].keys() - BEFORE[kind]) == 1


def test_a_tokenizer_and_a_source_from_outside_are_trained(run):
    losses = [row["loss"] for row in rows(run, "tokenizer") if "loss" in row]
    assert losses[-1] < losses[0]


def test_an_optimiser_from_outside_takes_its_steps(run):
    assert "palette" in (run / "parameters_tokenizer.txt").read_text()


def test_an_order_from_outside_is_the_one_that_is_decoded(run):
    plan = PLANS["spiral"].plan((3, 4))
    order = np.argsort(plan.rank)  # of slots; the first is the condition's
    fed = plan.src[order][1:].tolist()
    assert fed == [0, 1, 2, 3, 7, 11, 10, 9, 8, 4, 5]  # 6 is decided last and never fed


def test_a_head_from_outside_predicts_with_its_own_parameters(run):
    table = (run / "parameters_generator.txt").read_text()
    assert "tokens/embedding" in table and "head_0" not in table
    nats = [row["val/nats_per_image"] for row in rows(run, "generator") if "val/loss" in row]
    assert 0 < nats[-1] < np.inf


def test_a_sampler_from_outside_draws_what_it_promises(run):
    trained = Run(run).generator()
    model, params, ids = trained.module, trained.params, jnp.arange(8)
    cond, own = {"label": ids % 3}, Run(run).sampling()
    chosen = Run(run).sampling(method="likelier_of_two")
    assert network_calls(model, chosen) == 2 * network_calls(model, own)

    def nats(key, sampling):
        codes = model.to_codes(draw_latents(model, params, cond, key, ids, sampling))
        return model.apply({"params": params}, codes, cond, method="evaluate")

    key = jax.random.key(0)
    kept, drawn = nats(key, chosen), [nats(half, own) for half in jax.random.split(key)]
    np.testing.assert_allclose(kept, np.minimum(*drawn), rtol=1e-5)


def test_a_metric_from_outside_is_measured_by_the_command(run, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 16, 16, 3)).astype(np.uint8)
    files = [str(tmp_path / name) for name in ("a.npz", "b.npz")]
    for file, images in zip(files, pixels, strict=True):
        np.savez(file, images)
    argv = ["--samples", files[0], "--reference", files[1], "--metrics", "mae"]
    capsys.readouterr()
    assert cli.run(lambda: evaluate.main(argv)) == 0
    expected = np.abs(np.subtract(*pixels.astype(float))).mean() / 255
    result = json.loads(capsys.readouterr().out)["results"]["mae/4"]
    assert result["value"] == pytest.approx(expected, rel=1e-4)


def test_the_run_is_sampled_like_any_other(run, tmp_path):
    argv = ["--workdir", str(run), "--out", str(tmp_path), "--num", "3", "--labels", "0,1,2"]
    assert cli.run(lambda: sample.main(argv)) == 0
    assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (3, 16, 16, 3)


def test_the_table_names_what_is_tested():
    text = (MINE.parents[2] / "CONTRIBUTING.md").read_text()
    for what in REGISTRIES:
        assert re.search(rf"^\| an? {what}", text, re.MULTILINE), what
