"""Files of reference statistics: other programs' layouts, our own, and damaged ones."""

import numpy as np
import pytest

from imgen.errors import UserError
from imgen.evaluation.images.image_set import open_images
from imgen.evaluation.images.sample_files import drawn_by
from imgen.evaluation.networks.extractor import Features
from imgen.evaluation.sets import reference
from imgen.evaluation.sets.moments import gaussian


def statistics(width, seed=0):
    return gaussian(np.random.default_rng(seed).standard_normal((50, width)))


def test_pytorch_fid_and_adm_files_are_read(tmp_path):
    pool, spatial = statistics(6), statistics(4, seed=1)
    fid = {"mu": pool.mean, "sigma": pool.covariance}
    np.savez(tmp_path / "fid.npz", **fid)
    found = reference.read(tmp_path / "fid.npz")
    np.testing.assert_array_equal(found.pool.covariance, pool.covariance)
    assert found.spatial is found.features is found.pool.count is None and not found.has_images

    images = np.zeros((3, 8, 8, 3), np.uint8)
    np.savez(
        tmp_path / "adm.npz", arr_0=images, mu_s=spatial.mean, sigma_s=spatial.covariance, **fid
    )
    found = reference.read(tmp_path / "adm.npz")
    np.testing.assert_array_equal(found.spatial.mean, spatial.mean)
    assert found.has_images


def test_our_files_come_back_whole(tmp_path):
    features = np.arange(12, dtype=np.float32).reshape(2, 6)
    written = Features(
        "reals", 50, statistics(6), statistics(4), features, network="adm", network_hash="6726825d"
    )
    reference.write(tmp_path / "ours.npz", written)
    found = reference.read(tmp_path / "ours.npz")
    assert (found.name, found.network, found.network_hash) == ("reals", "adm", "6726825d")
    assert found.pool.count == 50
    np.testing.assert_array_equal(found.features, features)
    np.testing.assert_array_equal(found.spatial.covariance, written.spatial.covariance)
    assert [path.name for path in tmp_path.iterdir()] == ["ours.npz"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3)}, "lacks sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "not \\[D\\] and \\[D, D\\]"),
        ({"mu": np.zeros(3), "sigma": np.eye(3) * np.nan}, "sigma is not made of finite"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 0.5], [0.0, 1.0]])}, "not symmetric"),
        ({"mu": np.zeros(3, int), "sigma": np.eye(3)}, "mu is not made of finite numbers"),
        ({"images": np.zeros(3)}, "neither statistics .* only images"),
        (
            {"mu": np.zeros(3), "sigma": np.eye(3), "n": np.array([5, 6])},
            "n is int64 .2,., not the",
        ),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "n": np.array("many")}, "n is <U4 "),
        ({"mu": np.zeros(3), "sigma": np.eye(3), "n": np.array(-np.inf)}, "n is float64 "),
    ],
)
def test_files_of_something_else_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(UserError, match=message):
        reference.read(tmp_path / "bad.npz")


def test_other_arrays_in_a_file_are_left_alone(tmp_path):
    note = np.array([{"by": "me"}, None], object)
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3), n=np.array([50]), note=note)
    assert reference.read(tmp_path / "a.npz").pool.count == 50


def test_no_damage_to_a_compressed_file_gives_anything_but_a_line(tmp_path):
    """Wherever two bytes are overwritten: zip, zlib, numpy and Python's parser raise errors of their own."""
    images = np.random.default_rng(0).integers(0, 255, (2, 4, 4, 3)).astype(np.uint8)
    pool = statistics(4)
    np.savez_compressed(
        tmp_path / "whole.npz", images, mu=pool.mean, sigma=pool.covariance, protocol="{}"
    )
    data, path, lines = (tmp_path / "whole.npz").read_bytes(), tmp_path / "a.npz", set()
    for at in range(0, len(data) - 1, 3):
        path.write_bytes(data[:at] + b"(\xff" + data[at + 2 :])
        for read in (reference.read, lambda p: list(open_images(str(p)).read(8)), drawn_by):
            try:
                read(path)
            except UserError as error:
                lines.add(str(error))
    assert len(lines) > 20


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        reference.read(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("mu")
    with pytest.raises(UserError, match="not a readable"):
        reference.read(tmp_path / "text.npz")
    np.savez(tmp_path / "whole.npz", mu=np.zeros(99), sigma=np.eye(99))
    data = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="not a readable"):
        reference.read(tmp_path / "cut.npz")
    (tmp_path / "flipped.npz").write_bytes(data[:40000] + b"?" + data[40001:])
    with pytest.raises(UserError, match="damaged"):
        reference.read(tmp_path / "flipped.npz")
    np.save(tmp_path / "one.npz.npy", np.zeros(3))
    (tmp_path / "one.npz.npy").rename(tmp_path / "one.npz")
    with pytest.raises(UserError, match="single array"):
        reference.read(tmp_path / "one.npz")
