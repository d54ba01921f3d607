"""What imgen.sample leaves in its folder."""

import numpy as np
import pytest
from PIL import Image

from imgen.runs.sample_writer import SampleWriter


def pictures(num, seed=0):
    return np.random.default_rng(seed).integers(256, size=(num, 4, 6, 3), dtype=np.uint8)


def write(out, num):
    drawn = pictures(num)
    with SampleWriter(out, num, (4, 6)) as writer:
        writer.write(drawn[:2])
        writer.write(drawn[2:])
        assert not (out / "samples.npz").exists() or num == 3
        np.testing.assert_array_equal(writer.first(3), drawn[:3])
        writer.finish(labels=np.arange(num), protocol=np.array("{}"))
    return drawn


def test_the_file_is_as_numpy_writes_it(tmp_path):
    drawn = write(tmp_path, 5)
    np.savez(tmp_path / "numpy.npz", drawn, labels=np.arange(5), protocol=np.array("{}"))
    with np.load(tmp_path / "samples.npz") as ours, np.load(tmp_path / "numpy.npz") as theirs:
        assert sorted(ours.files) == sorted(theirs.files)
        for name in theirs.files:
            assert ours[name].dtype == theirs[name].dtype
            np.testing.assert_array_equal(ours[name], theirs[name])
    for number, picture in enumerate(drawn):
        with Image.open(tmp_path / f"{number:06d}.png") as image:
            np.testing.assert_array_equal(image, picture)


def test_a_smaller_set_takes_the_place_of_a_larger_one(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"")
    write(tmp_path, 5)
    write(tmp_path, 3)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"000000.png", "000001.png", "000002.png", "samples.npz", "mine.png"}
    assert np.load(tmp_path / "samples.npz")["arr_0"].shape == (3, 4, 6, 3)


def test_an_interrupted_set_leaves_the_file_of_before(tmp_path):
    drawn = write(tmp_path, 5)
    with pytest.raises(RuntimeError), SampleWriter(tmp_path, 4, (4, 6)) as writer:
        writer.write(drawn[:2])
        raise RuntimeError
    assert len(np.load(tmp_path / "samples.npz")["arr_0"]) == 5
    assert not list(tmp_path.glob(".*"))
    with SampleWriter(tmp_path, 4, (4, 6)) as writer, pytest.raises(ValueError, match="not 4"):
        writer.write(drawn[:2])
        writer.finish()
