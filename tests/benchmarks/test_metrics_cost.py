"""The benchmark of the statistics: a line for each, and a clear line where they cannot be taken."""

import json

from benchmarks import metrics_cost
from imgen.runs import cli


def test_each_statistic_is_measured(capsys):
    argv = ["--num", "300", "--reference", "200", "--width", "48"]
    asked = ["fid", "is", "precision_recall", "cmmd"]
    assert cli.run(lambda: metrics_cost.main([*argv, "--only", ",".join(asked)])) == 0
    setup, *rows = map(json.loads, capsys.readouterr().out.splitlines())
    assert setup["samples"] == 300 and setup["width"] == 48
    assert [row["statistic"] for row in rows] == [*asked, "all"]
    assert all(row["seconds"] >= 0 and row["peak_gib"] > 0 for row in rows)
    assert rows[1]["value"] > 1 and 0 < rows[2]["value"][0] <= 1 and rows[3]["value"] >= 0
    for only, message in (("kid", "cannot be drawn from 300 samples"), ("fif", "none of fid")):
        assert cli.run(lambda only=only: metrics_cost.main([*argv, "--only", only])) == 2
        assert message in capsys.readouterr().err
