"""Bicubic resize against its definition, and what files say of how samples were drawn."""

import numpy as np

from imgen.evaluation.images import bicubic, sample_files
from tests.evaluation.toy_network import images_of, pictures


def kernel(x):
    """Keys' cubic convolution with a = -3/4."""
    x, a = abs(x), -0.75
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def test_resize_takes_the_four_nearest_pixels_of_each_axis_without_antialiasing():
    image = pictures(1, size=12)[0]
    out = np.zeros((8, 8, 3))
    for i, j in np.ndindex(8, 8):
        y, x = ((k + 0.5) * 12 / 8 - 0.5 for k in (i, j))
        for v, u in np.ndindex(4, 4):
            row, column = int(np.floor(y)) - 1 + v, int(np.floor(x)) - 1 + u
            weight = kernel(y - row) * kernel(x - column)
            out[i, j] += weight * image[min(max(row, 0), 11), min(max(column, 0), 11)]
    found = bicubic.resize(image[None], 8)[0]
    assert np.abs(found - np.clip(out, 0, 255)).max() < 0.501
    images = bicubic.resized(images_of(image[None]), 8)
    rows, mask = next(images.read(2))
    assert images.size == (8, 8) and rows.shape == (2, 8, 8, 3) and mask.tolist() == [1, 0]
    np.testing.assert_array_equal(rows[0], found)


def test_only_what_files_tell_well_is_believed(tmp_path):
    how = {"class_balance": "balanced", "guidance": "cfg", "steps": 256}
    for number, told in enumerate(
        [
            sample_files.drawn(how | {"network": "adm"}, {"seed": 1}),
            sample_files.drawn(how | {"steps": None}, {}),
            np.array("cfg"),
            np.array("[1]"),
            np.array([b"{}", None], object),
        ]
    ):
        np.savez(tmp_path / f"{number}.npz", pictures(2), **{sample_files.KEY: told})
    np.savez(tmp_path / "5.npz", pictures(2))
    found = [sample_files.drawn_by(tmp_path / f"{number}.npz") for number in range(6)]
    assert found[0] == (how, {"seed": 1})
    assert found[1] == ({"class_balance": "balanced", "guidance": "cfg"}, {})
    assert found[2:] == [({}, {})] * 4
