"""Images through a feature network: devices, batches and padding change nothing."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.evaluation.metrics import METRICS, of_kind
from imgen.evaluation.networks.extractor import NEEDS, Extractor, one_pass
from imgen.evaluation.sets.moments import gaussian
from imgen.evaluation.sets.reference import Reference, write
from imgen.parallel.mesh import batch_sharding, make_mesh
from tests.evaluation.toy_network import images_of, pictures, toy_network


def extractor(devices=8, **network):
    return Extractor(
        toy_network(**network), batch_sharding(make_mesh(devices=jax.devices()[:devices]))
    )


def test_eight_devices_in_any_batches_are_one_pass():
    pixels = pictures(50)
    network = toy_network()
    whole = jax.tree.map(np.asarray, network.apply(network.params, pixels))
    for devices, batch_size in ((8, 16), (1, 7), (1, 64)):
        found = extractor(devices)(images_of(pixels), NEEDS, batch_size)
        np.testing.assert_allclose(found.features, whole["pool3"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.logits, whole["logits"], rtol=1e-5, atol=1e-6)
        # Of the same features: float32 rounding of the network is not what is looked at here.
        alone = gaussian(found.features)
        np.testing.assert_allclose(found.pool.mean, alone.mean, atol=1e-9)
        np.testing.assert_allclose(found.pool.covariance, alone.covariance, atol=1e-9)
        assert found.pool.count == found.num == 50 and len(found.spatial.mean) == 4


def test_a_set_against_itself_is_at_zero_and_few_samples_are_warned_of(caplog):
    caplog.set_level(logging.WARNING, "imgen.evaluate")
    run = extractor(width=60)
    samples = run(images_of(pictures(20)), NEEDS, 8)
    assert abs(METRICS["fid"].run(samples, samples)["fid"]) < 1e-6
    assert "20 samples for 60 features" in caplog.text
    assert METRICS["precision_recall"].run(samples, samples) == {"precision": 1, "recall": 1}
    other = run(images_of(pictures(20, seed=1)), NEEDS, 8)
    values = [METRICS[name].run(samples, other) for name in of_kind("samples")]
    assert all(np.isfinite(v) for value in values for v in value.values())
    assert METRICS["fid"].run(samples, other)["fid"] > 1e-3


def test_the_kept_features_of_a_reference_are_spread_over_it():
    pixels = pictures(50)
    run = extractor()
    every = run(images_of(pixels), ["features"], 8).features
    some = run(images_of(pixels), ["features", "pool"], 8, most_features=10)
    np.testing.assert_array_equal(some.features, every[::5])
    assert some.pool.count == 50


def test_what_is_not_finite_or_missing_is_named():
    pixels = pictures(20)
    pixels[13, 0, 0, 0] = 7
    with pytest.raises(UserError, match="toys: the pool3 features of image 13 are not finite"):
        extractor(broken=True)(images_of(pixels), ["pool"], 8)
    with pytest.raises(UserError, match="images are float32, not uint8"):
        extractor()(images_of(pixels.astype(np.float32)), ["pool"], 8)

    def half(batch_size):
        for rows, mask in images_of(pixels).read(batch_size):
            yield rows, mask * (np.arange(len(mask)) % 2)

    images = images_of(pixels)
    with pytest.raises(UserError, match="10 of 20 images could not be read"):
        extractor()(type(images)("toys", 20, (8, 8), half), ["pool"], 8)


def test_statistics_are_written_once_and_read_again(tmp_path):
    run, pixels, path = extractor(), pictures(30), str(tmp_path / "r.npz")

    def found(where=path, needs=("pool",), run=run):
        reference = Reference(where, lambda network: images_of(pixels, "reals"))
        return reference.features(run, needs, 8)

    fresh = found(needs=("pool", "spatial", "features"))
    assert fresh.name == "reals"
    write(path, fresh)
    again = found(needs=("pool", "spatial", "features"))
    assert again.name == "reals" and again.num == 30
    np.testing.assert_array_equal(again.pool.covariance, fresh.pool.covariance)
    np.testing.assert_array_equal(again.features, fresh.features)
    for network, message in (
        (dict(name="other"), "statistics of toy, samples are looked at by other"),
        (dict(hash="12345678"), "of other weights of toy"),
        (dict(width=9), "pool statistics have 6 features, toy gives 9"),
    ):
        with pytest.raises(UserError, match=message):
            found(run=extractor(**network))
    # ADM's files: statistics of all images, some of which are in the file for precision and recall.
    adm = tmp_path / "VIRTUAL_imagenet256_labeled.npz"
    np.savez(adm, pixels, mu=fresh.pool.mean, sigma=2 * fresh.pool.covariance)
    run = extractor(name="adm")
    both = found(str(adm), ("pool", "features"), run)
    assert both.name == "adm_imagenet256" and both.num is None
    np.testing.assert_allclose(both.pool.covariance, 2 * fresh.pool.covariance)
    np.testing.assert_allclose(both.features, fresh.features, rtol=1e-6)
    with pytest.raises(UserError, match="no statistics of spatial"):
        found(str(adm), ("spatial",), run)


def test_a_single_image_has_no_covariance():
    one = images_of(pictures(1))
    with pytest.raises(UserError, match="toys has 1 image: .* need at least 2"):
        extractor()(one, ["features", "pool"], 8)
    assert len(extractor()(one, ["features"], 8).features) == 1


def test_several_networks_share_one_pass_over_a_set():
    read = []

    def counted(batch_size):
        read.append(batch_size)
        return images.read(batch_size)

    images = images_of(pictures(21))
    wanted = [(extractor(), ["pool", "logits"]), (extractor(width=9), ["embeddings"])]
    first, second = one_pass(dataclasses.replace(images, read=counted), wanted, 8)
    assert read == [8]
    for (run, needs), found in zip(wanted, (first, second), strict=True):
        alone = run(images, needs, 8)
        fields = (dataclasses.asdict(f) | {"seconds": 0} for f in (found, alone))
        jax.tree.map(np.testing.assert_array_equal, *fields)
    assert first.embeddings is None and second.embeddings.shape == (21, 9)
