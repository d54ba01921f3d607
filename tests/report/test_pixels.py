"""Pixels there and back."""

import numpy as np

from imgen.report.pixels import to_float, to_uint8


def test_pixels_are_rounded_to_the_nearest_and_survive_the_way_there_and_back():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(levels)), levels)
    between = (levels[:-1] + np.array([[0.49], [0.51]])) / 127.5 - 1
    np.testing.assert_array_equal(to_uint8(between), [levels[:-1], levels[1:]])
    outside = np.array([-1.3, 1.3, -np.inf, np.inf])
    np.testing.assert_array_equal(to_uint8(outside), [0, 255, 0, 255])
