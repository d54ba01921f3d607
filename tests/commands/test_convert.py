"""imgen.convert: Inception there and back, and one clear line for every kind of file that is not right."""

import logging
import re
import sys
import zipfile

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from imgen import config, convert, evaluate, train
from imgen.errors import UserError
from imgen.evaluation.networks import fid_inception as networks
from imgen.evaluation.networks.inception import abstract_params
from imgen.evaluation.results.records import Protocol
from imgen.interop import clip, inception, taming, tokenizers
from imgen.interop import lpips as lpips_layout
from imgen.interop.system import by_table
from imgen.interop.table import LINEAR, Row, to_official
from imgen.params import files as weights
from imgen.params import paths
from imgen.runs import cli
from imgen.runs.experiment import Experiment
from imgen.runs.run import Run
from imgen.tokenizers.losses import lpips
from tests.conditioning.tiny_clip import random_params, tiny_clip

STATE = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones(2, np.float32),
}
LIKE = {"layer": {"kernel": np.zeros((3, 2), np.float32)}, "b": np.zeros(2, np.float32)}
ROWS = [Row("a.weight", "layer/kernel", LINEAR), Row("b", "b")]


@pytest.fixture
def toy(monkeypatch):
    """A system of two tensors, whose published file cannot be had."""
    system = by_table(lambda: ROWS, lambda: LIKE, (r"steps",), inside="model", sha256="0123abcd")
    monkeypatch.setitem(convert.SYSTEMS, "toy", system)


def run(capsys, file, out, *flags, system="toy"):
    """Exit status, standard output and standard error."""
    argv = ["--system", system, "--checkpoint", f"{file}", "--out", f"{out}", *flags]
    status = cli.run(lambda: convert.main(argv))
    return status, *capsys.readouterr()


def fails(capsys, *args, **kwargs):
    status, _, err = run(capsys, *args, **kwargs)
    assert status == 2 and len(err.splitlines()) == 1 and err.startswith("imgen: error:"), err
    return err


@pytest.fixture(scope="module")
def published():
    """Random weights, and the same under the official names."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.random(x.shape, np.float32), abstract_params())
    return params, inception.SYSTEM.to_official(params)


def test_inception_there_and_back(capsys, tmp_path, published):
    params, state = published
    counters = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.int64(3)}
    save_file(state | {k: np.array(v) for k, v in counters.items()}, tmp_path / "a.safetensors")
    status, out, _ = run(capsys, tmp_path / "a.safetensors", tmp_path, system="inception")
    assert status == 0 and "hash cannot be checked" in out
    written = tmp_path / "inception.safetensors"
    loaded = networks.inception("adm", written)
    # Nothing tells that these are the published weights.
    assert (loaded.name, loaded.hash) == ("adm_other_weights", weights.fingerprint(params))
    assert Protocol(network=loaded.name).name("gfid") == "gfd/adm_other_weights"
    assert run(capsys, written, tmp_path, "--back", system="inception")[0] == 0
    back = load_file(tmp_path / "inception_official.safetensors")
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], value) for key, value in state.items())
    with pytest.raises(UserError, match="not inception in our layout; .* --system inception"):
        networks.inception("adm", tmp_path / "inception_official.safetensors")


@pytest.mark.parametrize("dialect", ["adm", "pytorch_fid"])
def test_inception_has_fids_name_with_the_published_weights_only(
    tmp_path, published, caplog, monkeypatch, dialect
):
    monkeypatch.setattr(logging.getLogger("imgen"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("imgen"), "handlers", [])
    params = paths.flatten(published[0])
    for number, sha256 in enumerate(["6726825d0af5f729", "f29bea5d", None]):
        about = {} if sha256 is None else {"source_sha256": sha256}
        weights.write(tmp_path / "a.safetensors", params, about)
        loaded = networks.inception(dialect, tmp_path / "a.safetensors")
        assert loaded.name == dialect + ("_other_weights" if number else "")
        assert len(caplog.records) == number
    assert "no FID" in caplog.text


def test_other_networks_are_not_taken_for_inception(published):
    state = published[1]
    lacking = {k: v for k, v in state.items() if k != "Mixed_6d.branch_pool.bn.running_var"}
    for given, words in (
        (lacking, r"lacks Mixed_6d\.branch_pool\.bn\.running_var"),
        (state | {"AuxLogits.fc.bias": np.zeros(1000)}, r"no place for: AuxLogits\.fc\.bias"),
        (state | {"fc.bias": np.zeros(1000)}, r"fc\.bias.*\(1000,\).*\(1008,\)"),
    ):
        with pytest.raises(UserError, match=words):
            inception.SYSTEM.to_ours(given)


LARGE = (
    "taming_vqgan_16384",
    "titok_l32",
    "titok_b64",
    "titok_bl64",
    "titok_bl128",
    "instella_bae",
)


def test_every_published_tokenizer_goes_there_and_back():
    """At its published size; that the numbers are right is shown by its golden file and its own tests."""
    for name, system in tokenizers.SYSTEMS.items():
        if name in LARGE:
            continue  # a smaller one's layout
        params = jax.tree.map(lambda x: np.zeros(x.shape, np.int8), system.like())
        back = system.to_ours(system.to_official(params))
        assert jax.tree.map(np.shape, back) == jax.tree.map(np.shape, params), name


@pytest.fixture
def small_vq(tmp_path):
    """A file of taming's layout with random weights, and the config of such a small one."""
    small = "configs/vq.py:taming_vqgan,smoke"
    tokenizer = Experiment.build(config.load_config(small)).tokenizer
    images = np.zeros((1, 32, 32, 3), np.float32)
    params = jax.jit(tokenizer.init)(jax.random.key(0), images)["params"]
    save_file(to_official(taming.rows(), params), tmp_path / "vq.safetensors")
    return small, tmp_path / "vq.safetensors", tokenizer, params


def test_a_tokenizer_becomes_a_run_that_commands_take(capsys, tmp_path, small_vq):
    small, file, tokenizer, params = small_vq
    assert run(capsys, file, tmp_path / "vq", "--config", small, system="taming_vqgan")[0] == 0
    found = Run(tmp_path / "vq").tokenizer()
    assert found.module == tokenizer and found.step == 0
    assert jax.tree.map(np.array_equal, found.params, params)
    argv = ["--workdir", f"{tmp_path / 'vq'}", "--num", "8", "--batch_size", "8"]
    assert cli.run(lambda: evaluate.main(argv)) == 0
    assert '"images": 8' in capsys.readouterr().out
    argv = ["--config", small, "--workdir", f"{tmp_path / 'on'}"]
    argv += [f"--config.init.tokenizer={tmp_path / 'vq'}", "--config.train.tokenizer.steps=1"]
    assert cli.run(lambda: train.main(argv)) == 0
    capsys.readouterr()
    assert "already" in fails(
        capsys, file, tmp_path / "vq", "--config", small, system="taming_vqgan"
    )


def test_what_is_wrong_with_a_converted_runs_config_is_one_line(capsys, tmp_path, small_vq, toy):
    small, file, *_ = small_vq
    out, wider = tmp_path / "run", "--config.tokenizer.ch=16"
    for flags, system, words in (
        (
            ["--config", small, wider],
            "taming_vqgan",
            "but the model has (16,); is the checkpoint of this model's size?",
        ),
        (["--config", "configs/imagenet.py:llamagen_b"], "taming_vqgan", "a tokenizer's recipe"),
        (["--config", small], "toy", "goes with a tokenizer's weights"),
        (["--config", small, "--back"], "taming_vqgan", "goes with a tokenizer's weights"),
        ([wider], "taming_vqgan", "goes with --config"),
        (["--confg", small], "taming_vqgan", "unknown argument '--confg'"),
    ):
        assert words in fails(capsys, file, out, *flags, system=system), words
        assert not (out / "config.json").exists()


def test_clip_of_any_size_becomes_a_file_that_metrics_read(capsys, tmp_path):
    params = random_params(tiny_clip())
    save_file(to_official(clip.openai_rows(), params), tmp_path / "open_clip.safetensors")
    assert run(capsys, tmp_path / "open_clip.safetensors", tmp_path, system="clip")[0] == 0
    state = load_file(tmp_path / "clip.safetensors")
    found = clip.convert(state, clip.from_shapes(state))
    jax.tree.map(np.testing.assert_array_equal, found, params)
    err = fails(capsys, tmp_path / "clip.safetensors", tmp_path, "--back", system="clip")
    assert "published layout as it is" in err


@pytest.mark.parametrize("net", lpips.TRUNKS)
def test_lpips_two_published_files_become_one_that_metrics_read(capsys, tmp_path, net):
    """torchvision's trunk with its classifier, and the heads; either alone is refused."""
    trunk, state = lpips.TRUNKS[net], {"classifier.6.bias": np.zeros(1000, np.float32)}
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), lpips.abstract_params(trunk=trunk))
    params["conv_0"]["kernel"][...] = np.random.default_rng(0).random(
        (*trunk.kernel[:1] * 2, 3, 64)
    )
    params["lin_4"][...] = np.arange(trunk.widths[4])
    heads = {}
    for key, value in to_official(lpips_layout.rows(trunk), params).items():
        name = re.sub(r"net\.slice\d", "features", key)
        (heads if key.startswith("lin") else state)[name] = value
    save_file(state, tmp_path / "trunk.safetensors")
    save_file(heads, tmp_path / "heads.safetensors")
    given, system = ["--heads", f"{tmp_path / 'heads.safetensors'}"], f"lpips_{net}"
    assert run(capsys, tmp_path / "trunk.safetensors", tmp_path, *given, system=system)[0] == 0
    found = lpips_layout.load_any(tmp_path / f"{system}.safetensors")
    assert found[0] == net
    jax.tree.map(np.testing.assert_array_equal, found[1], params)
    err = fails(capsys, tmp_path / "trunk.safetensors", tmp_path, system=system)
    assert f"--heads {net}.pth (lpips/weights/v0.1/{net}.pth" in err
    err = fails(capsys, tmp_path / "heads.safetensors", tmp_path, system=system)
    assert "lacks net.slice1.0.bias" in err
    err = fails(capsys, tmp_path / "trunk.safetensors", tmp_path, "--heads", "gone", system=system)
    assert "--heads gone: no such file" in err
    (tmp_path / "a.pth").write_bytes(b"other weights")
    other = ["--heads", f"{tmp_path / 'a.pth'}"]
    err = fails(capsys, tmp_path / "trunk.safetensors", tmp_path, *other, system=system)
    assert "a.pth has the SHA-256" in err and "--any_weights" in err
    err = fails(capsys, tmp_path / "trunk.safetensors", tmp_path, *given, system="clip")
    assert "--heads goes with lpips_vgg, lpips_alex" in err


def test_torchscript_is_not_opened_and_the_way_around_is_named(capsys, tmp_path, toy):
    with zipfile.ZipFile(tmp_path / "ViT-B-32.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"ViT-B-32/{name}", b"")
    err = fails(capsys, tmp_path / "ViT-B-32.pt", tmp_path, system="clip")
    assert "is TorchScript" in err and "openai/clip-vit-base-patch32" in err
    err = fails(capsys, tmp_path / "ViT-B-32.pt", tmp_path, "--any_weights")
    assert err.strip().endswith("saved by itself")


def test_files_with_the_official_keys_are_converted(capsys, tmp_path, toy):
    np.savez(tmp_path / "a.npz", **STATE)
    assert run(capsys, tmp_path / "a.npz", tmp_path / "new" / "out")[0] == 0
    [written] = (tmp_path / "new" / "out").iterdir()
    found = load_file(written)
    np.testing.assert_array_equal(found["layer/kernel"], STATE["a.weight"].T)
    assert written.name == "toy.safetensors" and found.keys() == {"layer/kernel", "b"}


def test_what_is_wrong_with_a_file_is_one_line_and_nothing_is_written(capsys, tmp_path, toy):
    out = tmp_path / "out"
    save_file(STATE | {"b": np.ones(3, np.float32)}, tmp_path / "wide.safetensors")
    save_file({"b": STATE["b"]}, tmp_path / "part.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"no tensors")
    (tmp_path / "weights.h5").write_bytes(b"")
    for name, words in (
        ("wide.safetensors", ["b: gives", "(3,)", "(2,)"]),
        ("part.safetensors", ["lacks a.weight"]),
        ("cut.safetensors", ["not a readable safetensors"]),
        ("weights.h5", ["weights.h5", ".safetensors"]),
        ("gone.pth", ["gone.pth", "no such file"]),
    ):
        err = fails(capsys, tmp_path / name, out)
        assert all(word in err for word in words), err
    assert not list(out.glob("*"))
    assert "'toys' is none of" in fails(capsys, tmp_path / "cut.safetensors", out, system="toys")
    (tmp_path / "file").write_text("")
    assert "cannot write" in fails(capsys, tmp_path / "part.safetensors", tmp_path / "file" / "x")


def test_the_published_file_is_known_by_its_hash(capsys, tmp_path, toy, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    file = tmp_path / "published.pth"
    file.write_bytes(b"other weights")
    found = convert.sha256(file)
    err = fails(capsys, file, tmp_path)
    assert found[:16] in err and "0123abcd" in err and "--any_weights" in err
    assert "first 8 or more" in fails(capsys, file, tmp_path, "--expect_sha256", found[:7])
    assert "not 89abcdef" in fails(capsys, file, tmp_path, "--expect_sha256", "89ABCDEF")
    for flags in (["--any_weights"], ["--expect_sha256", found[:9]]):  # what is asked next
        assert "pip install 'imgen[convert]'" in fails(capsys, file, tmp_path, *flags)


def test_torch_files_of_both_layouts(capsys, tmp_path, toy):
    torch = pytest.importorskip("torch")
    state = {key: torch.from_numpy(value) for key, value in STATE.items()}
    state |= {"b": state["b"].bfloat16(), "steps": torch.tensor(3)}
    for new, inside in ((True, {"model": state, "epoch": 3}), (False, state)):
        torch.save(inside, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
        assert run(capsys, tmp_path / "a.pth", tmp_path, "--any_weights")[0] == 0
        found = load_file(tmp_path / "toy.safetensors")
        np.testing.assert_array_equal(found["layer/kernel"], STATE["a.weight"].T)
        np.testing.assert_array_equal(found["b"], STATE["b"])
    torch.save({"a": torch.nn.Linear(2, 3)}, tmp_path / "code.pth")
    torch.save({"epoch": 3}, tmp_path / "odd.pth")
    for name, words in (("code.pth", "cannot be read as weights"), ("odd.pth", "epoch is not")):
        assert words in fails(capsys, tmp_path / name, tmp_path, "--any_weights")
