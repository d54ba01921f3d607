"""Which statistics of other programs a network takes, and what they are called."""

import jax
import numpy as np
import pytest

from imgen.errors import UserError
from imgen.evaluation.networks.extractor import Extractor
from imgen.evaluation.results.reference_names import of_images, result_name
from imgen.evaluation.sets.moments import gaussian
from imgen.evaluation.sets.reference import Reference
from imgen.parallel.mesh import batch_sharding, make_mesh
from tests.evaluation.toy_network import images_of, toy_network


@pytest.fixture
def found(tmp_path):
    """(file's stem, name of the looking network, further arrays) -> the reference."""
    pool = gaussian(np.random.default_rng(0).standard_normal((50, 6)))

    def found(stem, looking, **more):
        path = tmp_path / f"{stem}.npz"
        np.savez(path, mu=pool.mean, sigma=pool.covariance, **more)
        sharding = batch_sharding(make_mesh(devices=jax.devices()[:1]))
        extractor = Extractor(toy_network(name=looking), sharding)
        return Reference(str(path), None).features(extractor, ["pool"], 8)

    return found


def test_published_statistics_are_of_one_network_only(found):
    for stem in ("VIRTUAL_imagenet256_labeled", "adm_in256_stats"):
        reference = found(stem, "adm")
        assert (reference.name, reference.network) == ("adm_imagenet256", "adm")
        for other in ("random_inception", "adm_other_weights", "pytorch_fid"):
            with pytest.raises(UserError, match=f"{stem}.npz holds statistics of adm, .* {other}"):
                found(stem, other)


def test_statistics_of_an_unknown_network_are_inceptions_and_have_no_published_name(
    found, tmp_path, caplog
):
    for network in ("adm", "pytorch_fid"):
        reference = found("adm_imagenet256", network)  # a user's file, by chance
        assert (reference.name, reference.network) == ("adm_imagenet256.npz", "")
        caplog.clear()
        path = str(tmp_path / "adm_imagenet256.npz")
        Reference(path, None).check(toy_network(name=network), ["pool"])
        assert f"taken for those of {network}; " in caplog.text and len(caplog.records) == 1
    caplog.clear()
    found("adm_in256_stats", "adm")
    path = str(tmp_path / "adm_in256_stats.npz")
    Reference(path, None).check(toy_network(name="adm"), ["pool"])
    assert not caplog.records
    with pytest.raises(UserError, match="names no network, .* looked at by toy: write"):
        found("mine", "toy")


def test_a_published_data_set_has_its_name_in_any_version():
    def named(name, size=256):
        return of_images(images_of(np.zeros((1, size, size, 3), np.uint8), name))

    for name in ("imagenet2012/validation", "imagenet2012:5.1.0/validation"):
        assert named(name) == "imagenet_val_256"
    for name in ("imagenet2012:5.1.0/validation[:100]", "imagenet2012_subset:5.1.0/validation"):
        assert named(name) == name
    assert named("imagenet2012:5.1.0/validation", 128) == "imagenet2012:5.1.0/validation"


def test_what_a_file_says_of_itself_goes_before_its_name(found):
    mine = {"network": "toy", "images": "reals"}
    assert found("adm_in256_stats", "toy", **mine).name == "reals"
    with pytest.raises(UserError, match="statistics of toy"):
        found("adm_in256_stats", "adm", **mine)


def test_metrics_of_reconstructions_name_their_reference_where_it_is_known():
    for reference, which in (
        ("eval", "_val"),
        ("imagenet_val_256", "_val"),
        ("train", "_train"),
        ("adm_imagenet256", "_train"),
        ("mine.npz", ""),
        (None, ""),
    ):
        assert result_name("fid", "reconstructions", reference) == f"rfid{which}"
    assert result_name("fid", "samples", "train") == "gfid"


def test_statistics_and_embeddings_are_of_all_images(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(6), sigma=np.eye(6), network="toy")
    np.save(tmp_path / "a.npy", np.ones((3, 6), np.float32))
    for name, need in (("a.npz", "pool"), ("a.npy", "embeddings")):
        where = str(tmp_path / name)
        assert Reference(where, None).check(toy_network(), [need]) == "a"
        with pytest.raises(UserError, match="not of the first 2: leave out --reference_num"):
            Reference(where, None, 2).check(toy_network(), [need])


def test_a_metric_without_reference_takes_the_name_of_any(tmp_path):
    assert Reference(f"{tmp_path}/coco.npy", None).check(toy_network()) == "coco"
