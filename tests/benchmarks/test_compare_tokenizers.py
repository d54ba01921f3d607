"""The comparison of tokenizers: the whole command on tiny models of three kinds of latents."""

import json

from benchmarks import compare_tokenizers
from imgen.runs import cli
from tests.report import reading


def test_the_command_trains_measures_and_goes_on(tmp_path, capsys):
    argv = ["--out", str(tmp_path), "--steps", "2", "--smoke", "--seconds", "0.01", "--tokenizers"]
    assert cli.run(lambda: compare_tokenizers.main([*argv, "kl"])) == 0
    before = (tmp_path / "kl" / "metrics.jsonl").read_text()
    assert cli.run(lambda: compare_tokenizers.main([*argv, "lfq,kl"])) == 0
    assert (tmp_path / "kl" / "metrics.jsonl").read_text() == before  # it was finished
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(r["name"], r["tokens"], r["bits"], r["steps"]) for r in rows] == [
        ("lfq", 64, 576, 2),
        ("kl", 64, None, 2),
    ]
    lfq, kl = rows
    assert lfq["usage"].endswith("%") and 0 <= lfq["entropy"] <= 1 and kl["points"] == []
    page = reading.Page(tmp_path / "compare.html")
    assert page.pngs == {name: (tmp_path / f"{name}.png").read_bytes() for name in ("lfq", "kl")}
    assert list(page.charts) == ["PSNR (dB)", "SSIM (gauss11)"]  # over bits: kl has none
    for chart in page.charts.values():
        assert "lfq" in reading.words(chart) and "kl" not in reading.words(chart)
    cells = page.texts[page.texts.index("lfq") :]
    assert cells[2:4] == ["64", "576"]
    assert "| lfq |" in capsys.readouterr().out and lfq["decode_images_per_second"] > 0
    longer = [*argv[:2], "--steps", "3", *argv[4:], "lfq"]
    assert cli.run(lambda: compare_tokenizers.main(longer)) == 2
    assert "use another --out" in capsys.readouterr().err
    assert cli.run(lambda: compare_tokenizers.main([*argv, "vqq"])) == 2
    assert "'vqq' is none of vq, fsq" in capsys.readouterr().err
