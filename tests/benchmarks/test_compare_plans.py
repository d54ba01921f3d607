"""The comparison of orders: equal parameters, and the whole command on a tiny run."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import compare_plans
from imgen import config, train
from imgen.runs import cli
from tests.report import reading


def test_every_plan_gets_as_many_parameters_as_the_first():
    run = config.load_config("configs/quickstart.py")
    args = SimpleNamespace(workdir="RUN", steps=100, batch_size=8)
    counts = {}
    for plan in compare_plans.PLANS:
        settings = compare_plans.plan_settings(run, args, "codes", plan)
        settings = compare_plans.with_parameters(settings, counts.get("raster"))
        counts[plan] = compare_plans.parameters(settings)
    assert len(counts) == 6
    for count in counts.values():
        assert count == pytest.approx(counts["raster"], rel=0.01)


def test_the_command_trains_measures_and_resumes(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    argv = ["--config", "configs/quickstart.py:smoke", "--workdir", str(run)]
    assert cli.run(lambda: train.main([*argv, "--config.train.generator.steps=1"])) == 0
    argv = ["--workdir", str(run), "--out", str(out), "--steps", "4", "--batch_size", "8",
            "--samples", "4", "--seconds", "0.01", "--no_size_b"]  # fmt: skip
    assert cli.run(lambda: compare_plans.main([*argv, "--plans", "raster"])) == 0
    before = (out / "raster" / "metrics.jsonl").read_text()
    assert cli.run(lambda: compare_plans.main([*argv, "--plans", "nar"])) == 0
    assert (out / "raster" / "metrics.jsonl").read_text() == before  # it was finished
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(row["name"], row["calls"], row["steps"]) for row in rows] == [
        ("raster", 64, 4),
        ("nar", 15, 4),
    ]
    for row in rows:
        assert row["nats_per_image"] > 0 and row["images_per_second_1"] > 0
        assert (out / f"{row['name']}.png").exists()
    assert "| nar |" in capsys.readouterr().out
    page = reading.Page(out / "compare.html")
    assert page.pngs == {plan: (out / f"{plan}.png").read_bytes() for plan in ("raster", "nar")}
    (chart,) = page.charts.values()
    for series, row in enumerate(rows):
        xs, ys = zip(*row["curve"], strict=True)
        assert (xs[0], xs[-1]) == (1, 4)
        reading.assert_shows(reading.line(chart, series), xs, ys)
    capsys.readouterr()
    assert cli.run(lambda: compare_plans.main([*argv, "--plans", "nar", "--steps", "5"])) == 2
    assert "use another --out" in capsys.readouterr().err
    assert cli.run(lambda: compare_plans.main([*argv, "--plans", "zigzag"])) == 2
    assert "'zigzag' is none of raster, nar" in capsys.readouterr().err
