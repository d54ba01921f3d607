"""The features of fd_cifar: trained by its command, read back, and images of other sizes."""

import json

import jax
import numpy as np
import pytest

from benchmarks import train_cifar_features
from imgen.errors import UserError
from imgen.evaluation.networks import cifar as cifar_features
from imgen.evaluation.networks.registry import load_network
from imgen.runs import cli
from tests.data.tiny import write_tfds
from tests.evaluation.toy_network import pictures


def test_it_trains_is_saved_and_read_back(tmp_path, capsys):
    write_tfds(tmp_path / "data", size=32, names=tuple("abcdefghij"))
    out = tmp_path / "weights" / "fd.safetensors"
    arguments = ["--data_dir", f"{tmp_path / 'data'}", "--dataset", "tiny", "--out", f"{out}"]
    arguments += ["--steps", "2", "--batch_size", "4", "--width", "8"]
    assert cli.run(lambda: train_cifar_features.main(arguments)) == 0
    about = cifar_features.about(out)
    assert about["width"] == 8 and 0 <= about["test_accuracy"] <= 1 and about["dataset"] == "tiny"
    assert f"test accuracy {about['test_accuracy']:.4f}" in capsys.readouterr().out
    network = load_network("fd_cifar", str(out))
    assert network.name == "fd_cifar" and network.widths == {"pool3": 32, "logits": 10}
    images = pictures(3, size=32)
    apply = jax.jit(network.apply)
    features = {k: np.asarray(v) for k, v in apply(network.params, images).items()}
    assert features["pool3"].shape == (3, 32) and features["logits"].shape == (3, 10)
    again = apply(network.params, np.roll(images, 1, axis=0))  # of its own, whatever its batch
    np.testing.assert_allclose(np.roll(again["pool3"], -1, axis=0), features["pool3"], atol=1e-5)
    cifar_features.save(tmp_path / "b.safetensors", jax.tree.map(np.sin, network.params), 8, {})
    assert load_network("fd_cifar", str(tmp_path / "b.safetensors")).hash != network.hash


def test_images_come_to_its_size_by_averages():
    images = pictures(2, size=32)
    np.testing.assert_array_equal(cifar_features.to_size(images), images)
    flat = np.broadcast_to(images[:, :1, :1], (2, 80, 50, 3))
    resized = cifar_features.to_size(flat)
    np.testing.assert_allclose(
        resized, np.broadcast_to(images[:, :1, :1], (2, 32, 32, 3)), atol=1e-3
    )
    stripes = np.zeros((1, 128, 128, 3), np.uint8)
    stripes[:, :, ::2] = 200  # would be 0 or 200 without antialiasing
    inside = np.asarray(cifar_features.to_size(stripes))[:, :, 2:-2]
    np.testing.assert_allclose(inside, 100, atol=2)


def test_files_that_are_not_its_weights_are_refused(tmp_path):
    with pytest.raises(UserError, match="needs --features_weights FILE"):
        load_network("fd_cifar")
    with pytest.raises(UserError, match="no such weights; train them by"):
        load_network("fd_cifar", str(tmp_path / "none"))
    (tmp_path / "text").write_text("weights")
    with pytest.raises(UserError, match="not a readable .safetensors"):
        load_network("fd_cifar", str(tmp_path / "text"))
    header = json.dumps({"__metadata__": {}}).encode()
    (tmp_path / "empty").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="holds no fd_cifar weights"):
        load_network("fd_cifar", str(tmp_path / "empty"))
    with pytest.raises(UserError, match="'inception' is none of adm"):
        load_network("inception")
