"""The main job in miniature, as the README runs it, and its commands on the result."""

import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from imgen import encode, evaluate, sample, train
from imgen.report.metrics_log import read_metrics
from imgen.runs import cli
from tests.evaluation.toy_network import untrained_weights
from tests.report import reading
from tests.training.killing import assert_same_run, environment, exact_rows, kill_at_random, run

QUICK = "configs/quickstart.py:smoke"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Of the network fd_cifar, untrained."""
    return untrained_weights(tmp_path_factory.mktemp("weights") / "fd.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, weights):
    """A run of the quickstart that also measures Frechet distances and keeps its best checkpoints."""
    folder = tmp_path_factory.mktemp("quickstart")
    workdir, path = folder / "run", folder / "measured.py"
    path.write_text(
        "from configs import quickstart\n"
        "def get_config():\n"
        "    config = quickstart.get_config('smoke').unlock()\n"
        f"    how = dict(features='fd_cifar', weights={weights!r}, num=40, batch_size=4)\n"
        "    config.train.tokenizer.sample_eval = how\n"
        "    config.train.tokenizer.keep_best = dict(metric='psnr', mode='max')\n"
        "    config.train.generator.sample_eval = dict(how, every=4, metrics=('fid', 'is'))\n"
        "    config.train.generator.keep_best = dict(metric='gfd/fd_cifar/40')\n"
        "    return config\n"
    )
    assert cli.run(lambda: train.main(["--config", f"{path}", "--workdir", f"{workdir}"])) == 0
    return workdir


def test_the_run_leaves_what_the_contract_says(trained):
    rows = read_metrics(trained / "metrics.jsonl")
    assert {"stage", "step", "loss", "images_per_second"} <= rows[0].keys()
    final = {row["stage"]: row for row in rows if "val/loss" in row or "val/psnr" in row}
    assert {"val/psnr", "val/codebook_usage"} <= final["tokenizer"].keys()
    assert {"val/nats_per_image", "val/class_accuracy"} <= final["generator"].keys()
    assert json.loads((trained / "config.json").read_text())["tokenizer"]["name"] == "vq"
    assert list((trained / "samples/generator").glob("*.png"))
    assert list((trained / "samples/tokenizer").glob("*.png"))
    assert list(trained.glob("**/events.out.tfevents*"))
    page = reading.Page(trained / "report.html")
    assert {"Tokenizer", "Generator"} <= set(page.texts) and {"loss", "psnr"} <= set(page.charts)
    assert {"samples, step 8", "reconstructions, step 8"} <= set(page.pngs)
    psnr = [(r["step"], r["val/psnr"]) for r in rows if "val/psnr" in r]
    reading.assert_shows(reading.line(page.charts["psnr"], 1), *zip(*psnr, strict=True))


def test_sample_writes_the_asked_images_whatever_the_batch(trained, tmp_path):
    def draw(out, *more):
        arguments = ["--workdir", f"{trained}", "--out", f"{tmp_path / out}", "--num", "5", *more]
        assert cli.run(lambda: sample.main(arguments)) == 0
        with np.load(tmp_path / out / "samples.npz") as file:
            return file["arr_0"], file["labels"]

    pixels, labels = draw("a", "--labels", "3,7", "--guidance", "2")
    assert pixels.shape == (5, 32, 32, 3) and pixels.dtype == np.uint8
    assert labels.tolist() == [3, 7, 3, 7, 3]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a" / "000004.png")), pixels[4])
    assert (tmp_path / "a" / "grid.png").exists()
    again, _ = draw("b", "--labels", "3,7", "--guidance", "2", "--batch_size", "2")
    assert np.abs(pixels.astype(int) - again).max() <= 1  # rounding differs with the batch's shape
    other, _ = draw("c", "--labels", "3,7", "--guidance", "2", "--seed", "1")
    assert not np.array_equal(pixels, other)


def test_evaluate_agrees_with_the_training_log_and_states_the_baselines(trained, capsys):
    assert cli.run(lambda: evaluate.main(["--workdir", f"{trained}", "--batch_size", "24"])) == 0
    result = json.loads(capsys.readouterr().out)
    rows = read_metrics(trained / "metrics.jsonl")
    logged = {k: v for row in rows for k, v in row.items() if k.startswith("val/")}
    assert result["reconstruction"]["psnr"] == pytest.approx(logged["val/psnr"], abs=1e-3)
    assert result["likelihood"]["nats_per_image"] == pytest.approx(
        logged["val/nats_per_image"], rel=1e-5
    )
    assert 0 < result["baselines"]["unigram_entropy"] <= np.log(64)
    stored = json.loads((trained / "evaluation.json").read_text())
    for metric in ("reconstruction", "likelihood", "baselines"):
        record = result[metric]
        assert stored[metric] == [record] and record["name"] == f"{metric}/64"
        assert record["protocol"]["n"] == 64 and record["protocol"]["dtype"] == "float32"
        assert record["protocol"]["reference"] == "shapes/test" and record["images_per_second"] > 0


def test_measures_while_training_are_those_of_the_command_on_the_kept_checkpoints(
    trained, weights, tmp_path, capsys
):
    def measured(*arguments):
        more = ["--features", "fd_cifar", "--features_weights", weights, "--batch_size", "4"]
        # As the command does, whose warnings (grid.png is no sample) are no part of its output.
        status = cli.run(lambda: evaluate.main([*arguments, *more]), log_to=sys.stderr)
        assert status == 0
        return {k: v["value"] for k, v in json.loads(capsys.readouterr().out)["results"].items()}

    rows = [r for r in read_metrics(trained / "metrics.jsonl") if r["stage"] == "generator"]
    logged = {r["step"]: r["val/gfd/fd_cifar/40"] for r in rows if "val/gfd/fd_cifar/40" in r}
    assert list(logged) == [4, 8]
    best = min(logged, key=logged.get)
    assert [p.name for p in (trained / "checkpoints/generator_best").iterdir()] == [str(best)]
    run = ["--workdir", f"{trained}", "--num", "40", "--reference", "eval"]
    for checkpoint, value in (("best", logged[best]), ("latest", logged[8])):
        found = measured(*run, "--metrics", "fid,is", "--checkpoint", checkpoint)
        assert found["gfd/fd_cifar/40"] == pytest.approx(value, rel=1e-4)
        assert found.keys() == {"gfd/fd_cifar/40", "is/fd_cifar/40"}
    of_tokenizer = [
        r for r in read_metrics(trained / "metrics.jsonl") if "val/rfd_val/fd_cifar/40" in r
    ]
    found = measured("--workdir", f"{trained}", "--num", "40", "--metrics", "rfid,psnr,ssim")
    assert found["rfd_val/fd_cifar/40"] == pytest.approx(
        of_tokenizer[-1]["val/rfd_val/fd_cifar/40"], rel=1e-4
    )
    assert 0 < found["psnr/40"] < 40 and -1 < found["ssim_gauss11/40"] < 1

    # What imgen.sample writes, as a file and as a folder; the statistics of one of them, read again.
    arguments = [
        "--workdir",
        f"{trained}",
        "--out",
        f"{tmp_path}",
        "--num",
        "40",
        "--checkpoint",
        "best",
    ]
    assert cli.run(lambda: sample.main(arguments)) == 0
    capsys.readouterr()
    file, statistics = f"{tmp_path}/samples.npz", f"{tmp_path / 'statistics.npz'}"
    against = ["--reference", f"{tmp_path}", "--write_reference", statistics]
    found = measured("--samples", file, *against, "--metrics", "fid,kid,precision_recall,psnr")
    assert abs(found["gfd/fd_cifar/40"]) < 1e-6 and found["psnr/40"] == pytest.approx(98)
    assert found["precision/fd_cifar/40"] == found["recall/fd_cifar/40"] == 1
    record = json.loads((tmp_path / "samples.evaluation.json").read_text())["results"]
    [protocol] = [result["protocol"] for result in record["gfd/fd_cifar/40"]]
    assert protocol["reference"] == f"{tmp_path}" and protocol["n"] == 40
    again = measured("--samples", f"{tmp_path}", "--reference", statistics, "--metrics", "fid")
    assert abs(again["gfd/fd_cifar/40"]) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--samples", "FILE", "--metrics", "fid"], ["--reference is needed"]),
        (["--samples", "FILE"], ["--metrics is needed"]),
        (["--samples", "FILE", "--metrics", "rfid"], ["'rfid' is none of fid"]),
        (
            ["--samples", "FILE", "--metrics", "sfid", "--reference", "FILE"],
            ["spatial", "fd_cifar"],
        ),
        (["--samples", "FILE", "--metrics", "psnr", "--reference", "OTHER"], ["3 images", "4"]),
        (["--samples", "FILE", "--metrics", "lpips", "--reference", "FILE"], ["--lpips_weights"]),
        (["--samples", "FILE", "--metrics", "is", "--write_reference", "a.npz"], ["e.g. fid"]),
        (["--samples", "FILE", "--metrics", "fid", "--num", "9"], ["3 images, not 9"]),
    ],
)
def test_what_a_measurement_lacks_is_one_line(weights, tmp_path, capsys, arguments, words):
    np.savez(tmp_path / "file.npz", np.full((3, 32, 32, 3), 9, np.uint8))
    np.savez(tmp_path / "other.npz", np.full((4, 32, 32, 3), 9, np.uint8))
    files = {"FILE": f"{tmp_path / 'file.npz'}", "OTHER": f"{tmp_path / 'other.npz'}"}
    arguments = [files.get(a, a) for a in arguments]
    arguments += ["--features", "fd_cifar", "--features_weights", weights, "--batch_size", "1"]
    assert cli.run(lambda: evaluate.main(arguments)) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1 and all(word in err for word in words), err


def test_a_generator_trains_on_stored_codes(trained, tmp_path, capsys):
    codes = tmp_path / "codes"
    for split in ("train", "test"):
        arguments = [
            "--workdir",
            f"{trained}",
            "--split",
            split,
            "--out",
            f"{codes}",
            "--batch_size",
            "16",
        ]
        assert cli.run(lambda a=arguments: encode.main(a)) == 0
    config, images = tmp_path / "codes.py", tmp_path / "images.npz"
    np.savez(images, np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8))
    config.write_text(
        "from imgen.config import read_config\n"
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        f"    config = ConfigDict(read_config({str(trained)!r})).unlock()\n"
        f"    config.data.source = dict(name='latents', path={str(codes)!r})\n"
        "    config.data.train = dict(split='train'); config.data.eval = dict(split='test')\n"
        f"    config.init = dict(tokenizer={str(trained)!r})\n"
        "    del config.train['tokenizer']\n"
        f"    config.train.generator.sample_eval.reference = {str(images)!r}\n"
        "    return config\n"
    )
    arguments = ["--config", f"{config}", "--workdir", f"{tmp_path / 'run'}"]
    assert cli.run(lambda: train.main(arguments)) == 0
    assert "val/gfd/fd_cifar/40" in read_metrics(tmp_path / "run/metrics.jsonl")[-1]
    # The mirrored images of shapes differ from the plain ones; the held-out codes are the plain ones.
    ours, theirs = (
        [
            row["val/nats_per_image"]
            for row in read_metrics(w / "metrics.jsonl")
            if "val/nats_per_image" in row
        ]
        for w in (tmp_path / "run", trained)
    )
    assert ours[-1] == pytest.approx(theirs[-1], rel=0.05)
    assert list((tmp_path / "run/samples/generator").glob("*.png"))
    capsys.readouterr()
    spec = json.loads((codes / "test" / "spec.json").read_text())
    (codes / "test" / "spec.json").write_text(json.dumps({**spec, "tokenizer_hash": "0" * 16}))
    again = ["--config", f"{config}", "--workdir", f"{tmp_path / 'again'}"]
    assert cli.run(lambda: train.main(again)) == 2
    assert "tokenizer" in capsys.readouterr().err


def test_a_generator_goes_on_from_another_run_which_may_then_go(trained, tmp_path, capsys):
    source, config = tmp_path / "source", tmp_path / "start.py"
    shutil.copytree(trained, source)
    config.write_text(
        "from configs import quickstart\n"
        "def get_config():\n"
        "    config = quickstart.get_config('smoke').unlock()\n"
        f"    config.init = dict(tokenizer={str(source)!r}, generator={str(source)!r})\n"
        "    del config.train['tokenizer']\n"
        "    config.train.generator.update(steps=4, ema_decay=0.9, checkpoint_every=2)\n"
        "    return config\n"
    )
    arguments = ["--config", f"{config}", "--workdir", f"{tmp_path / 'run'}"]
    assert cli.run(lambda: train.main(arguments)) == 0
    losses = [r["loss"] for r in read_metrics(tmp_path / "run/metrics.jsonl") if "loss" in r]
    first = [r["loss"] for r in read_metrics(trained / "metrics.jsonl") if r["stage"] == "generator"
             and "loss" in r]  # fmt: skip
    assert losses[0] < first[0]
    shutil.rmtree(source)
    assert cli.run(lambda: train.main([*arguments, "--config.train.generator.steps=6"])) == 0
    assert read_metrics(tmp_path / "run/metrics.jsonl")[-1]["step"] == 6
    capsys.readouterr()
    assert cli.run(lambda: evaluate.main(["--workdir", f"{tmp_path / 'run'}", "--num", "8"])) == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"likelihood", "baselines"}


def command(workdir) -> list[str]:
    more = [
        f"--config.train.{stage}.{key}"
        for stage in ("tokenizer", "generator")
        for key in ("checkpoint_every=3", "steps=12", "log_every=1")
    ]
    return [
        sys.executable,
        "-m",
        "imgen.train",
        "--config",
        QUICK,
        "--workdir",
        f"{workdir}",
        *more,
    ]


def test_stopped_and_killed_twice_it_ends_bit_for_bit_as_if_never_disturbed(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    undisturbed = run(command(one), environment())
    assert undisturbed.returncode == 0, undisturbed.stderr
    rows = len(exact_rows(one))
    sigterm_saves_and_exits(other)
    killed_at = kill_at_random(command(other), other, environment(), kills=2, rows=rows, seed=3)
    assert len(killed_at) == 2 and killed_at[0] < rows / 2 < killed_at[-1] < rows
    finished = run(command(other), environment())
    assert finished.returncode == 0, finished.stderr
    assert_same_run(one, other, ["tokenizer", "generator"])
    assert len({(r["stage"], r["step"]) for r in exact_rows(other) if "loss" in r}) == 24


def sigterm_saves_and_exits(workdir):
    process = subprocess.Popen(
        command(workdir), env=environment(), stderr=subprocess.PIPE, text=True
    )
    while not (workdir / "metrics.jsonl").exists() or len(exact_rows(workdir)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "checkpoint saved" in err and "Traceback" not in err
    assert list((workdir / "checkpoints/tokenizer").glob("[0-9]*"))
