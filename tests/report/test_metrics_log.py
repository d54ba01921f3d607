import io
import json

from imgen.report import charts as plot
from imgen.report import pixels as images
from imgen.report.metrics_log import MetricWriter, read_metrics
from imgen.report.progress import Progress, duration
from imgen.report.run_page import summarize, summary_text, write_report


def test_rows_beyond_the_resumed_step_of_that_stage_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(tmp_path)
    writer.begin("one", 0)
    for step in (10, 20, 30):
        writer.write("one", step, {"loss": 1.0 / step})
    writer.begin("two", 0)
    writer.write("two", 40, {"loss": 1.0})
    writer.close()
    path.write_text(path.read_text() + '{"stage": "two", "st')  # killed in the middle of a line
    writer.begin("one", 20)
    writer.write("one", 25, {"loss": 3.0})
    writer.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in rows] == [
        ("one", 10), ("one", 20), ("two", 40), ("one", 25)]  # fmt: skip


def test_what_is_not_finite_is_null(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.begin("one", 0)
    writer.write("one", 1, {"loss": float("nan"), "norm": float("inf"), "fine": 2})
    writer.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"stage": "one", "step": 1, "loss": None, "norm": None, "fine": 2.0}]  # fmt: skip


def test_report_holds_curves_pictures_and_the_last_numbers(tmp_path):
    writer = MetricWriter(tmp_path)
    writer.begin("tokenizer", 0)
    for step in range(1, 51):
        writer.write("tokenizer", step, {"loss": 100 / step, "seconds": step})
    writer.write("tokenizer", 50, {"val/loss": 1.5, "val/psnr": 22.125, "seconds": 130})
    writer.close()
    picture = images.grid([[[[255, 0, 0]] * 8] * 8] * 4)
    images.save_png(tmp_path / "samples/tokenizer/recon_00000100.png", picture)
    html = write_report(tmp_path).read_text()
    assert html.count("<svg") == 2  # loss (train and val), psnr
    assert "loss (log)" in html and "train 2</text>" in html and "val 1.5</text>" in html
    assert 'src="data:image/png;base64,' in html and "recon, step 100" in html
    assert "http://" not in html and "https://" not in html  # needs nothing else
    assert summarize(read_metrics(tmp_path / "metrics.jsonl"))["tokenizer"] == {
        "steps": 50, "seconds": 130.0, "val/loss": 1.5, "val/psnr": 22.125, "loss": 2.0}  # fmt: skip
    assert "2:10" in summary_text(read_metrics(tmp_path / "metrics.jsonl"))


def test_running_mean_keeps_a_line_a_line_and_averages_noise():
    assert plot.smooth([float(i) for i in range(20)], 6)[3:17] == [float(i) for i in range(3, 17)]
    assert max(plot.smooth([0.0, 1.0] * 20, 20)) < 0.6


def test_chart_of_nothing_and_of_one_point():
    assert plot.chart("a", [("train", [1, 2], [None, float("nan")])]) == ""
    assert "<circle" in plot.chart("a<b", [("train", [1], [0.0])])
    assert "a&lt;b" in plot.chart("a<b", [("train", [1], [0.0])])


def test_ticks_are_round_and_inside():
    assert plot.ticks(0.07, 0.93) == [0.2, 0.4, 0.6000000000000001, 0.8]
    assert plot.ticks(0, 4000) == [0, 1000, 2000, 3000, 4000]
    assert plot.log_ticks(0.9, 60) == [1, 2, 5, 10, 20, 50]


def test_plain_lines_without_a_terminal():
    stream = io.StringIO()
    progress = Progress("toy", 4, items=8, noun="images", line_seconds=0.0, stream=stream)
    for step in (1, 4):
        progress.update(step, "loss 2")
    progress.close()
    first, last = stream.getvalue().splitlines()
    assert first.startswith("toy 1/4 25% | loss 2 | ") and "images/s" in first
    assert last.startswith("toy 4/4 100%") and last.endswith("0:00 left")
    assert duration(4000) == "1:06:40"
