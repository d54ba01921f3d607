"""METRICS: a metric from outside the package, and that of several networks each is computed by its own."""

import json
import sys

import jax
import numpy as np
import pytest

from imgen import evaluate
from imgen.errors import UserError
from imgen.evaluation.definition import PAIRS, Metric
from imgen.evaluation.metrics import METRICS, by_extractor, measure, needs_of
from imgen.evaluation.networks.extractor import Extractor
from imgen.evaluation.sets.reference import Reference
from imgen.parallel.mesh import batch_sharding, make_mesh
from imgen.runs import cli
from tests.evaluation.toy_network import images_of, pictures, toy_network, untrained_weights


def mean_shift(samples, reference):
    """The contributor's file."""
    return {"mean_shift": float(np.linalg.norm(samples.pool.mean - reference.pool.mean))}


def difference(x, y, weights):
    return {"difference": abs(x - y).mean(axis=(1, 2, 3))}


def test_a_metric_from_outside_is_an_entry_and_measured_by_the_command(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(METRICS, "mean_shift", Metric(("pool",), mean_shift))
    monkeypatch.setitem(METRICS, "difference", Metric(PAIRS, difference, of="pairs"))
    sets = pictures(6, size=32), pictures(6, size=32, seed=1)
    for name, pixels in zip("ab", sets, strict=True):
        np.savez(tmp_path / f"{name}.npz", pixels)
    argv = ["--samples", f"{tmp_path / 'a.npz'}", "--reference", f"{tmp_path / 'b.npz'}"]
    argv += ["--metrics", "mean_shift,difference", "--features", "fd_cifar"]
    argv += ["--features_weights", untrained_weights(tmp_path / "w.safetensors")]
    status = cli.run(lambda: evaluate.main(argv), log_to=sys.stderr)
    printed = capsys.readouterr()
    assert status == 0, printed.err
    results = json.loads(printed.out)["results"]
    assert results["mean_shift/fd_cifar/6"]["value"] > 0
    expected = np.abs(sets[0].astype(float) - sets[1]).mean() / 255
    assert results["difference/6"]["value"] == pytest.approx(expected, rel=1e-6)


def test_each_metric_is_of_the_first_network_that_gives_what_it_needs_in_one_pass():
    sharding = batch_sharding(make_mesh(devices=jax.devices()[:1]))
    first, second = (Extractor(toy_network(name=name), sharding) for name in ("first", "second"))
    del first.network.widths["embedding"]
    assert by_extractor(["cmmd", "fid", "is"], [first, second]) == [
        (first, ["fid", "is"]),
        (second, ["cmmd"]),
    ]
    with pytest.raises(UserError, match="first gives no embedding features"):
        by_extractor(["cmmd"], [first])
    assert needs_of(["fid", "is", "kid"]) == ("pool", "logits", "features")
    assert needs_of(["fid", "is"], reference=True) == ("pool",)

    opened = []

    def reals(network):
        opened.append(network.name)
        return images_of(pictures(30, seed=1), "reals")

    reference, images = Reference(None, reals), images_of(pictures(30))
    found = measure(images, reference, ["cmmd", "fid", "is"], [first, second], 8)
    assert [(m.extractor, *m.values) for m in found] == [
        (first, "fid"),
        (first, "is"),
        (second, "cmmd"),
    ]
    assert found[1].reference is None and found[0].reference.name == "reals"
    again = measure(images, reference, ["cmmd", "fid"], [first, second], 8)
    assert opened == ["first", "second"]  # the reference's features are kept
    assert [m.values for m in again] == [found[0].values, found[2].values]
