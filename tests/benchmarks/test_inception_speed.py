"""The benchmark of Inception: what it says without PyTorch, and its lines with it."""

import json
import sys

import pytest

from benchmarks import inception_speed
from imgen.runs import cli


def test_without_pytorch_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert cli.run(lambda: inception_speed.main([])) == 2
    assert "pip install 'imgen[benchmark]'" in capsys.readouterr().err


def test_both_networks_agree_and_are_timed(capsys):
    pytest.importorskip("torch")
    argv = ["--batch_size", "1", "--image_size", "64", "--seconds", "0"]
    assert cli.run(lambda: inception_speed.main(argv)) == 0
    setup, outputs, *rows = map(json.loads, capsys.readouterr().out.splitlines())
    assert setup["batch_size"] == 1 and max(outputs["largest_difference"].values()) < 1e-4
    assert [row["network"] for row in rows] == ["ours", "torch", "torch_channels_last"]
    assert all(row["images_per_second"] > 0 and row["cpu_seconds"] > 0 for row in rows)
