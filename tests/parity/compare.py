"""Comparing our arrays with golden ones."""

import re

import numpy as np


def assert_close(actual, expected, tolerance: float | str) -> None:
    """Within a tolerance as golden files give it: 2e-4 (absolute), "rtol 2e-3" or "rtol 5e-3 atol
    1e-6". Where only rtol is given, entries that are tiny beside the largest one are compared on
    its scale: float32 sums have no better relative error."""
    expected = np.asarray(expected)
    if isinstance(tolerance, str):
        given = {name: float(value) for name, value in re.findall(r"(rtol|atol) (\S+)", tolerance)}
        rtol = given.get("rtol", 0.0)
        atol = given.get("atol", 1e-2 * rtol * float(np.abs(expected).max()))
    else:
        rtol, atol = 0.0, tolerance
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=rtol, atol=atol)


def nhwc(x):
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, 1)
