"""A run's page: the numbers, curves and pictures of the run, and nothing fetched from elsewhere."""

import json
import subprocess
import sys

import numpy as np

from imgen.report import pixels
from imgen.report.metrics_log import MetricWriter, read_metrics
from imgen.report.run_page import MOST_PICTURES, write_classes, write_report
from imgen.report.summary import number, summarize, summary_text
from tests.report import reading


def a_run(folder):
    writer = MetricWriter(folder)
    writer.begin("tokenizer", 0)
    for step in range(1, 51):
        writer.write(
            "tokenizer", step, {"loss": 100 / step, "seconds": step, "images_per_second": 9}
        )
    writer.write("tokenizer", 25, {"val/loss": 3.0, "val/psnr": 20.5, "seconds": 60})
    writer.write("tokenizer", 50, {"val/loss": 1.5, "val/psnr": 22.125, "seconds": 130})
    writer.begin("generator", 0)
    writer.write("generator", 1200, {"loss": float("nan")})
    writer.close()


def test_curves_are_those_of_the_rows(tmp_path):
    a_run(tmp_path)
    page = reading.Page(write_report(tmp_path))
    assert list(page.charts) == ["loss", "psnr", "images per second"]
    rows = [
        row for row in map(json.loads, (tmp_path / "metrics.jsonl").open()) if row["step"] <= 50
    ]
    for name, key, series in (
        ("loss", "loss", 0),
        ("loss", "val/loss", 1),
        ("psnr", "val/psnr", 1),
    ):
        xs, ys = zip(*((r["step"], r[key]) for r in rows if key in r), strict=True)
        reading.assert_shows(reading.line(page.charts[name], series), xs, ys, log=name == "loss")
    assert {"loss (log)", "train 2", "val 1.5"} < set(reading.words(page.charts["loss"]))
    assert {"psnr", "val 22.12"} < set(reading.words(page.charts["psnr"]))


def test_numbers_are_the_newest_of_each_stage(tmp_path):
    a_run(tmp_path)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert summarize(rows)["tokenizer"] == {
        "steps": 50, "seconds": 130.0, "val/loss": 1.5, "val/psnr": 22.125, "loss": 2.0}  # fmt: skip
    page = reading.Page(write_report(tmp_path))
    shown = {"steps": "50", "time": "02:10", "val/loss": "1.5", "val/psnr": "22.12", "loss": "2"}
    assert {name: page.after(name) for name in shown} == shown
    generator = page.texts[page.texts.index("Generator") :]
    assert generator[1:] == ["steps", "1,200", "time", "not finite", "loss", "not finite"]
    text = summary_text(rows).splitlines()
    assert text[0] == "tokenizer" and ["time", "02:10"] in [line.split() for line in text]
    assert [number(x) for x in (1.2e6, 4000, 0.0003, -2.5e9)] == ["1.2M", "4k", "0.0003", "-2.5G"]


def test_pictures_are_the_files_the_newest_and_a_few_before(tmp_path):
    a_run(tmp_path)
    for step in range(100, 1100, 100):
        picture = pixels.grid(np.full((4, 8, 8, 3), step // 10, np.uint8))
        pixels.save_png(tmp_path / f"samples/tokenizer/two_words_{step:08d}.png", picture)
    page = reading.Page(write_report(tmp_path))
    assert len(page.pngs) == MOST_PICTURES and next(iter(page.pngs)) == "two words, step 1000"
    for caption, data in page.pngs.items():
        step = int(caption.removeprefix("two words, step "))
        file = tmp_path / f"samples/tokenizer/two_words_{step:08d}.png"
        assert data == file.read_bytes() and caption in page.texts


def test_names_are_escaped_and_a_run_without_rows_has_a_page(tmp_path):
    folder = tmp_path / "a <b> & c"
    folder.mkdir()
    page = reading.Page(write_report(folder))
    assert page.texts.count("a <b> & c") == 2 and str(folder) in page.texts  # title, heading, path


def test_classes_stand_on_the_page_by_their_numbers(tmp_path):
    a_run(tmp_path)
    write_classes(tmp_path, ("1", "2", "größe & <10>"))
    page = write_report(tmp_path).read_text("utf-8")
    assert "0 1 · 1 2 · 2 größe &amp; &lt;10&gt;" in page
    (tmp_path / "classes.json").write_text("{broken")
    assert "Classes" not in write_report(tmp_path).read_text("utf-8")


def test_commands_start_without_the_plotting_library():
    code = (
        "import sys, imgen.train, imgen.analyze; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
