"""`imgen.analyze` on stored codes and on a run."""

import csv
import json
import types

import numpy as np
import pytest

from imgen import analyze, config
from imgen.data.stored import LatentsWriter
from imgen.latents import LatentSpec
from imgen.runs import cli
from tests.report import reading

IMAGES = 40


def store(folder, spec, split="test", variants=2, seed=0):
    """Stored latents; returns those of the first variant."""
    high = 2 if spec.kind == "bits" else spec.size
    more = () if spec.kind == "index" else (spec.size,)
    rng = np.random.default_rng(seed)
    latents = rng.integers(0, high, (IMAGES, variants, *spec.grid, *more)).astype(np.int32)
    with LatentsWriter(
        folder / split, spec, split=split, tokenizer_hash="abc", variants=variants
    ) as writer:
        for example in latents:
            writer.write(example, 0)
    return latents[:, 0]


def run(capsys, *arguments):
    status = cli.run(lambda: analyze.main([str(a) for a in arguments]))
    return status, *capsys.readouterr()


def test_stored_codes_give_one_object_and_four_files(tmp_path, capsys):
    codes = store(tmp_path / "codes", LatentSpec("index", (3, 4), 20))
    segments = tmp_path / "parts.npy"
    np.save(segments, codes.reshape(IMAGES, 12) // 5)
    out = tmp_path / "out"
    arguments = ("--codes", tmp_path / "codes", "--scan", "col", "--segments", segments)
    status, printed, _ = run(capsys, *arguments, "--batch_size", 7, "--out", out)
    assert status == 0
    found = json.loads(printed)
    assert found == json.loads((out / "stats.json").read_text())
    assert found["split"] == "test" and found["images"] == IMAGES
    assert found["tokens"] == found["codes"]["tokens_1"] == IMAGES * 12
    assert found["codes"]["tokens_3"] == IMAGES * 10 == found["shuffled"]["tokens_3"]
    assert found["codes"]["distinct_1"] == len(np.unique(codes))
    assert found["granularity"]["parts"]["gran_purity"] == 1
    assert found["granularity"]["parts"]["permuted"]["gran_purity"] < 0.6
    with (out / "ranks.csv").open() as file:
        rows = list(csv.DictReader(file))
    for n, tokens in (("1", 12), ("2", 11), ("2 shuffled", 11), ("3", 10)):
        sums = [
            (int(r["last_rank"]) - int(r["rank"]) + 1) * int(r["frequency"])
            for r in rows
            if r["n"] == n
        ]
        assert sum(sums) == IMAGES * tokens, n
    seen = (out / "innovation.csv").read_text().splitlines()
    assert seen[-1] == f"{IMAGES},{len(np.unique(codes))}" and len(seen) == IMAGES + 1
    page = reading.Page(out / "report.html")
    assert len(page.charts) == 5 and "nan" not in page.texts
    assert int(page.after("distinct_1")) == found["codes"]["distinct_1"]
    at = page.texts.index("entropy_bits_2")
    for cell, kind in zip(page.texts[at + 1 : at + 3], ("codes", "shuffled"), strict=True):
        assert float(cell) == pytest.approx(found[kind]["entropy_bits_2"], rel=1e-4)
    rank = reading.line(page.charts["counts over log10 rank, n = 1"], 0)
    counts = sorted(np.bincount(codes.ravel(), minlength=20).tolist(), reverse=True)
    reading.assert_shows(rank, np.log10(np.arange(1, 21)), counts, log=True)
    digits = reading.line(page.charts["leading digits of counts"], 1)
    reading.assert_shows(digits, range(1, 10), np.log10(1 + 1 / np.arange(1, 10)))


def test_bits_are_analysed_as_codes_and_one_by_one(tmp_path, capsys):
    bits = store(tmp_path, LatentSpec("bits", (6,), 4))
    arguments = ("--codes", tmp_path / "test", "--num", 15, "--batch_size", 4, "--max_ngram", 2)
    status, printed, _ = run(capsys, *arguments, "--out", tmp_path / "out")
    assert status == 0
    found = json.loads(printed)
    assert found["images"] == 15 and "tokens_3" not in found["codes"]
    np.testing.assert_allclose(found["bits"]["bit_mean"], bits[:15].mean((0, 1)))
    assert found["bits"]["total_correlation_bits"] > 0
    assert "total_correlation_bits" in found["bits"]["shuffled"]
    assert found["codes"]["usage"] == found["codes"]["distinct_1"] / 16


def fake_run(tmp_path, monkeypatch, spec):
    """A run's folder whose tokenizer codes an image by its pixels' sums."""
    settings = config.load_config("configs/quickstart.py:smoke", ["data.eval.num=20"])
    (tmp_path / "config.json").write_text(config.to_json(settings))

    def encode(pixels):
        assert pixels.dtype == np.uint8
        return pixels.astype(np.int64).reshape(len(pixels), 4, -1).sum(-1).reshape(-1, 2, 2) % 9

    module = types.SimpleNamespace(padded=False)
    loaded = types.SimpleNamespace(spec=spec, encode=encode, module=module)
    monkeypatch.setattr(analyze.Run, "tokenizer", lambda self: loaded)


def test_a_run_encodes_its_held_out_images(tmp_path, monkeypatch, capsys):
    fake_run(tmp_path, monkeypatch, LatentSpec("index", (2, 2), 9))
    arguments = ("--workdir", tmp_path, "--batch_size", 8, "--out", tmp_path / "out")
    status, printed, _ = run(capsys, *arguments)
    assert status == 0
    found = json.loads(printed)
    assert (found["split"], found["images"], found["tokens"]) == ("test", 20, 80)
    other = json.loads(run(capsys, *arguments, "--split", "train", "--num", 6)[1])
    assert (other["split"], other["images"]) == ("train", 6)


def test_the_same_seed_gives_the_same_controls(tmp_path, capsys):
    store(tmp_path, LatentSpec("index", (3, 4), 20))

    def shuffled(seed):
        arguments = ("--codes", tmp_path, "--seed", seed, "--out", tmp_path / "out")
        return json.loads(run(capsys, *arguments)[1])["shuffled"]["entropy_bits_2"]

    assert shuffled(1) == shuffled(1) != shuffled(2)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((), ["--workdir", "--codes"]),
        (("--codes", "a", "--workdir", "b"), ["one of"]),
        (("--codes", "nothing"), ["nothing", "imgen.encode"]),
        (("--codes", "both"), ["test, train", "--split"]),
        (("--codes", "both", "--split", "val"), ["test, train", "--split"]),
        (("--codes", "line", "--scan", "hilbert"), ["hilbert", "two axes"]),
        (("--codes", "line", "--scan", "diagonal"), ["diagonal", "zigzag"]),
        (("--codes", "line", "--num", "0"), ["--num"]),
        (("--codes", "line", "--segments", "none.npy"), ["none.npy"]),
        (("--codes", "line", "--segments", "short.npy"), ["short.npy", "(3, 6)", "(40, 6)"]),
        (("--codes", "line", "--segments", "float.npy"), ["float.npy", "integer"]),
        (("--codes", "smooth"), ["continuous"]),
    ],
)
def test_one_clear_line(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    for split in ("test", "train"):
        store(tmp_path / "both", LatentSpec("index", (6,), 9), split)
    store(tmp_path / "line", LatentSpec("index", (6,), 9))
    store(tmp_path / "smooth", LatentSpec("continuous", (6,), 1))
    np.save("short.npy", np.zeros((3, 6), np.int32))
    np.save("float.npy", np.zeros((IMAGES, 6)))
    status, printed, err = run(capsys, *arguments, "--out", "out")
    lines = [line for line in err.splitlines() if not line.startswith("codes ")]
    assert status == 2 and not printed and len(lines) == 1, err
    assert all(word in lines[0] for word in words), err
