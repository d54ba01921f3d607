"""metrics.jsonl: what a resumed run cuts, and lines that are none of ours."""

import json

import pytest

from imgen.report.metrics_log import MetricWriter, read_metrics


def test_rows_beyond_the_resumed_step_of_that_stage_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(tmp_path)
    writer.begin("one", 0)
    for step in (10, 20, 30):
        writer.write("one", step, {"loss": 1.0 / step})
    writer.begin("two", 0)
    writer.write("two", 40, {"loss": 1.0})
    writer.close()
    writer.begin("one", 20)
    writer.write("one", 25, {"loss": 3.0})
    writer.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == [
        ("one", 10), ("one", 20), ("two", 40), ("one", 25)]  # fmt: skip


@pytest.mark.parametrize(
    "foreign",
    [
        b'{"stage": "two", "st',  # killed in the middle of a line
        b"\0\0\0\0",  # a file system's, after the power was cut
        b"\xff\xfe",
        b"[1, 2]\n",
        b"7\n",
        b'{"loss": 1.0}\n',
        b'{"stage": "one", "step": "ten"}\n',
        b'{"stage": "one", "step": 5, "loss": "low"}\n',
        b"a note of mine\n",
    ],
)
def test_a_line_that_is_no_row_is_left_out_with_one_warning(tmp_path, caplog, foreign):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(tmp_path)
    writer.begin("one", 0)
    writer.write("one", 10, {"loss": 1.0, "val/loss": 2.0})
    writer.close()
    path.write_bytes(path.read_bytes() + foreign)
    assert [row["step"] for row in read_metrics(path)] == [10]
    assert writer.has_evaluation("one", 10) and not writer.has_evaluation("one", 5)
    with caplog.at_level("WARNING", "imgen"):
        for stage in ("one", "two"):
            writer.begin(stage, 10)
            writer.write(stage, 11, {"loss": 1.0})
    writer.close()
    (warning,) = caplog.messages
    assert warning == f"{path}: left out what is no row of metrics, line 2"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == [("one", 10), ("one", 11), ("two", 11)]


def test_what_is_not_finite_is_null(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.begin("one", 0)
    writer.write("one", 1, {"loss": float("nan"), "norm": float("inf"), "fine": 2})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"stage": "one", "step": 1, "loss": None, "norm": None, "fine": 2.0}]  # fmt: skip
