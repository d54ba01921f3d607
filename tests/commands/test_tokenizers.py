"""Tokenizers of every kind of latents through the commands: train, evaluate, sample, encode, generate."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from imgen import config, encode, evaluate, sample, train
from imgen.data import make_source
from imgen.params import paths
from imgen.runs import cli
from imgen.runs.experiment import Experiment
from imgen.runs.run import Run
from tests.evaluation.toy_network import untrained_weights

SMALL = "configs/small_tokenizers.py"


def trained(name, workdir, *overrides, config=SMALL):
    argv = ["--config", f"{config}:{name},smoke", "--workdir", str(workdir)]
    argv += [f"--config.{override}" for override in overrides]
    assert cli.run(lambda: train.main(argv)) == 0
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def measured(workdir, capsys, *metrics, more=()):
    capsys.readouterr()
    argv = [
        "--workdir",
        str(workdir),
        *(["--metrics", ",".join(metrics)] if metrics else []),
        *more,
    ]
    assert cli.run(lambda: evaluate.main(argv)) == 0
    said = capsys.readouterr().out
    return json.loads(said[said.index("{") :])  # behind the warnings


@pytest.fixture(scope="module")
def bits_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("bae")
    trained("bae", workdir)
    return workdir


@pytest.fixture(scope="module")
def kl_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("kl")
    return workdir, trained("kl", workdir)


def test_a_tokenizer_of_bits_is_measured_and_its_stored_bits_train_a_generator(
    bits_run, tmp_path, capsys
):
    found = measured(bits_run, capsys)["reconstruction"]
    assert (found["tokens"], found["bits"], found["images"]) == (64, 576, 16)
    assert 0 <= found["bit_entropy"] <= 1 and found["psnr"] > 5 and "ssim_gauss11" in found

    codes = tmp_path / "codes"
    for split in ("train", "test"):
        argv = ["--workdir", str(bits_run), "--split", split, "--out", str(codes)]
        assert cli.run(lambda argv=argv: encode.main(argv)) == 0
    source, run = make_source("latents", "train", path=str(codes)), Run(bits_run).tokenizer()
    assert source.spec == run.spec and source.spec.kind == "bits"
    images = make_source("shapes", "train", size=32, num=64)
    np.testing.assert_array_equal(
        source[3]["codes"][0], run.encode(images[3]["image"][None])[0]
    )  # the first view is the picture itself

    settings = config.load_config("configs/quickstart.py:smoke").to_dict()
    settings["tokenizer"] = config.read_config(bits_run).tokenizer.to_dict()
    settings["init"] = {"tokenizer": str(bits_run), "generator": ""}
    settings["data"]["source"] = {"name": "latents", "path": (str(codes),)}
    settings["data"]["train"] = {"split": "train"}
    settings["data"]["eval"] = {"split": "test"}
    del settings["train"]["tokenizer"]
    settings["train"]["generator"].update(steps=2, sample_metrics=None)
    workdir = tmp_path / "generator"
    workdir.mkdir()
    train.train(Experiment.build(config.from_json(json.dumps(settings))), workdir)
    nats = measured(workdir, capsys)["likelihood"]["nats_per_image"]
    assert nats == pytest.approx(576 * np.log(2), rel=0.1)  # hardly trained: a coin for every bit
    argv = ["--workdir", str(workdir), "--out", str(tmp_path / "out"), "--num", "2"]
    assert cli.run(lambda: sample.main(argv)) == 0
    assert np.load(tmp_path / "out" / "samples.npz")["arr_0"].shape == (2, 32, 32, 3)


def test_continuous_latents_are_normalised_and_stored_as_moments(kl_run, tmp_path):
    workdir, rows = kl_run
    run = Run(workdir).tokenizer()
    last = [row for row in rows if "latent_std" in row][-1]
    quantizer = run.params["quantizer"]
    assert float(quantizer["scale"]) != 1.0 and last["latent_std"] > 0
    argv = ["--workdir", str(workdir), "--split", "test", "--out", str(tmp_path)]
    assert cli.run(lambda: encode.main(argv)) == 0
    source = make_source("latents", "test", path=str(tmp_path))
    picture = make_source("shapes", "test", size=32, num=16)[5]["image"]
    moments = source[5]["moments"][0]
    assert moments.shape == (8, 8, 8)
    np.testing.assert_allclose(moments[..., :4], run.encode(picture[None])[0], atol=1e-5)


def test_sampling_a_tokenizer_draws_its_reconstructions(bits_run, tmp_path):
    argv = ["--workdir", str(bits_run), "--out", str(tmp_path), "--num", "6"]
    assert cli.run(lambda: sample.main(argv)) == 0
    drawn = np.load(tmp_path / "samples.npz")
    assert drawn["arr_0"].shape == drawn["originals"].shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(
        drawn["arr_0"][4], np.asarray(Image.open(tmp_path / "000004.png"))
    )
    shapes = make_source("shapes", "test", size=32, num=16)
    np.testing.assert_array_equal(drawn["originals"][4], shapes[4]["image"])
    assert (tmp_path / "grid.png").exists()


def test_flags_that_cannot_change_a_reconstruction_are_refused(bits_run, tmp_path, capsys):
    argv = ["--workdir", str(bits_run), "--out", str(tmp_path), "--guidance", "2", "--top_k", "0"]
    assert cli.run(lambda: sample.main(argv)) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "--top_k, --guidance cannot change: leave" in line and str(bits_run) in line


def test_a_tokenizer_goes_on_from_another_run_and_needs_it_no_more(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    trained("vq", first)
    start = Run(first).tokenizer().params["quantizer"]["codebook"]
    more = [f"init.tokenizer={first}", "train.tokenizer.ema_decay=0.0", "train.tokenizer.steps=1"]
    trained("vq", second, *more)
    # k-means would have put every code elsewhere, an average begun afresh would have pulled them there.
    table = Run(second).tokenizer().params["quantizer"]["codebook"]
    assert np.abs(table - start).max() < 0.1 * np.abs(start).max()
    shutil.rmtree(first)
    trained("vq", second, *more[:2], "train.tokenizer.steps=2")

    argv = ["--config", f"{SMALL}:flextok,smoke", "--workdir", str(tmp_path / "none")]
    assert cli.run(lambda: train.main([*argv, "--config.init.parts.vae=/no/run"])) == 2
    assert "init.parts.vae" in capsys.readouterr().err
    argv = ["--config", "configs/titok.py:titok_s128", "--workdir", str(tmp_path / "none")]
    assert cli.run(lambda: train.main(argv)) == 2
    assert "tokenizer.encoder is never trained here" in capsys.readouterr().err


def test_flextok_trains_on_a_frozen_autoencoder_and_shows_its_prefixes(kl_run, tmp_path, capsys):
    vae, _ = kl_run
    argv = ["--config", f"{SMALL}:flextok,smoke", "--workdir", str(tmp_path / "none")]
    assert cli.run(lambda: train.main(argv)) == 2
    assert "init.parts.vae" in capsys.readouterr().err

    workdir, moved = tmp_path / "run", tmp_path / "vae"
    shutil.copytree(vae, moved)
    other = [f"--config.init.parts.vae={moved}", "--config.tokenizer.vae.groups=4"]
    assert cli.run(lambda: train.main([*argv, *other])) == 2
    assert "groups 4, not 8" in capsys.readouterr().err  # no shape tells
    overrides = [f"init.parts.vae={moved}", "tokenizer.registers=4"]
    overrides.append("train.tokenizer.checkpoint_every=2")
    measuring, weights = tmp_path / "measured.py", untrained_weights(tmp_path / "fd.safetensors")
    measuring.write_text(
        "from configs import small_tokenizers\n"
        "ARGS = ('flextok', 'smoke')\n"
        "def get_config(arg):\n"
        f"    config = small_tokenizers.get_config(arg).unlock()\n"
        f"    how = dict(features='fd_cifar', weights={weights!r}, metrics=('fid',), batch_size=1)\n"
        "    config.train.tokenizer.sample_eval = how\n"
        "    return config\n"
    )
    trained("flextok", workdir, *overrides, config=measuring)
    shutil.rmtree(moved)  # its parameters are in the checkpoints
    shutil.rmtree(workdir / "checkpoints" / "tokenizer" / "4")
    rows = trained("flextok", workdir, *overrides, config=measuring)
    assert [row["step"] for row in rows if "flow_loss" in row] == [1, 2, 3, 4]
    ours, theirs = Run(workdir).tokenizer().params["vae"], Run(vae).tokenizer().params
    for path, leaf in paths.flatten(ours).items():
        np.testing.assert_array_equal(leaf, paths.flatten(theirs)[path])
    more = ["--features", "fd_cifar", "--features_weights", weights, "--batch_size", "2"]
    found = measured(workdir, capsys, "prefixes", "rfid", more=more)
    assert list(found["prefixes"]["by_tokens"]) == ["1", "2", "4"]
    # In training, what is drawn is drawn as by the command, whose batches are others.
    (fid,) = (row["val/rfd_val/fd_cifar/16"] for row in rows if "val/rfd_val/fd_cifar/16" in row)
    assert found["results"]["rfd_val/fd_cifar/16"]["value"] == pytest.approx(fid, rel=1e-4)
    drawn = {}
    for name, flags in (("plain", []), ("other", ["--seed", "1"])):
        out = tmp_path / name
        argv = ["--workdir", str(workdir), "--out", str(out), "--num", "2", *flags]
        assert cli.run(lambda argv=argv: sample.main(argv)) == 0
        assert (out / "tokens.png").exists()
        drawn[name] = np.load(out / "samples.npz")["arr_0"].astype(int)
    assert "sample 2/2 100%" in capsys.readouterr().err
    assert np.abs(drawn["plain"] - drawn["other"]).mean() > 1  # the noise is another
