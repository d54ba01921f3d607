"""The comparison of entities: the whole command on a tiny run, from images to stored moments to pictures."""

import json

from benchmarks import compare_entities
from imgen import train
from imgen.runs import cli


def test_the_command_trains_on_moments_measures_and_goes_on(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    argv = ["--config", "configs/small_tokenizers.py:kl,smoke", "--workdir", str(run)]
    assert cli.run(lambda: train.main([*argv, "--config.train.tokenizer.steps=1"])) == 0
    argv = ["--workdir", str(run), "--out", str(out), "--steps", "2", "--batch_size", "8", "--samples",
            "4", "--seconds", "0.01", "--solver_steps", "2", "--config.generator.width=32"]  # fmt: skip
    assert cli.run(lambda: compare_entities.main([*argv, "--models", "cell"])) == 0
    about = json.loads((out / "latents" / "train" / "spec.json").read_text())
    assert about["moments"] and about["variants"] == 2  # of the image and of its mirror image
    trained = (out / "cell" / "metrics.jsonl").read_text()
    assert cli.run(lambda: compare_entities.main([*argv, "--models", "raster_flow"])) == 0
    assert (out / "cell" / "metrics.jsonl").read_text() == trained  # it was finished
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [(r["name"], r["entities"], r["evaluations"], r["steps"]) for r in rows] == [
        ("cell", 4, 4 * 2 + 3, 2),
        ("raster_flow", 64, 64 * 2, 2),
    ]
    for row in rows:
        assert row["loss"] > 0 and row["images_per_second"] > 0
        assert (out / f"{row['name']}.png").exists()
    assert "| cell |" in capsys.readouterr().out
    assert cli.run(lambda: compare_entities.main([*argv, "--models", "cels"])) == 2
    assert "'cels' is none of token, cell" in capsys.readouterr().err
