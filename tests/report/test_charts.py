"""Charts: the points drawn are the points given, ticks are round, and nothing is drawn of nothing."""

from xml.etree import ElementTree

import numpy as np
import pytest

from imgen.report.charts import MOST_POINTS, chart, smooth, svg, thin
from tests.report import reading


def parsed(*arguments, **options) -> ElementTree.Element:
    return ElementTree.fromstring(svg(chart(*arguments, **options)))


def test_lines_hold_the_points_that_are_finite():
    nan = float("nan")
    ys = [3.0, None, 1.5, nan, float("inf"), 2.0]
    found = parsed(
        "a", [("train", range(6), ys), ("val", [1, 5], [nan, nan]), ("test", [0, 5], [1, 4])]
    )
    reading.assert_shows(reading.line(found, 0), [0, 2, 5], [3.0, 1.5, 2.0])
    reading.assert_shows(reading.line(found, 2), [0, 5], [1, 4])  # of the third colour
    with pytest.raises(AssertionError):
        reading.line(found, 1)
    assert {"train 2", "test 4"} < set(reading.words(found))


def test_a_logarithmic_axis_leaves_out_what_is_not_above_zero():
    found = parsed("b", [("train", range(5), [100.0, 0.0, 1.0, -5.0, 0.01])], log=True)
    reading.assert_shows(reading.line(found, 0), [0, 2, 4], [100, 1, 0.01], log=True)
    assert {"b (log)", "0.01", "0.1", "1", "10", "100"} < set(reading.words(found))
    narrow = parsed("b", [("train", range(2), [0.9, 60])], log=True)
    assert {"1", "2", "5", "10", "20", "50"} < set(reading.words(narrow))


def test_noise_is_faint_below_its_running_mean_and_long_lines_are_thinned():
    xs, ys = np.arange(1000), np.random.default_rng(0).normal(size=1000)
    faint, mean = chart("c", [("train", xs, ys)], values=False).axes[0].lines
    assert faint.get_alpha() < 0.5 and len(faint.get_xydata()) <= MOST_POINTS
    np.testing.assert_array_equal(faint.get_xydata(), np.column_stack([xs, ys])[::-1][::3][::-1])
    np.testing.assert_array_equal(mean.get_xdata(), faint.get_xdata())
    assert np.ptp(mean.get_ydata()) < np.ptp(faint.get_ydata()) / 2
    found = parsed("c", [("train", xs[:100], ys[:100])], values=False)
    reading.assert_shows(reading.line(found, 0, faint=True), xs[:100], ys[:100])
    assert "train" in reading.words(found)
    assert [len(thin(range(n))) for n in (0, 1, 399, 400, 401)] == [0, 1, 399, 400, 201]
    assert thin(range(1001))[-1] == 1000


def test_running_mean_keeps_a_line_a_line_and_averages_noise():
    np.testing.assert_allclose(smooth(np.arange(20.0), 6)[3:17], np.arange(3, 17))
    assert max(smooth([0.0, 1.0] * 20, 20)) < 0.6


def test_nothing_gives_none_and_one_point_a_dot():
    assert chart("a", [("train", [1, 2], [None, float("nan")])]) is None
    found = parsed("a<b", [("train", [1], [0.0])])
    assert "a<b" in reading.words(found) and "train 0" in reading.words(found)
    assert any(use.get("style") for use in found.iter(f"{reading.SVG}use"))


def test_ticks_are_round_and_the_same_figure_gives_the_same_bytes():
    series = [("train", [0, 4000], [0.07, 0.93])]
    texts = set(reading.words(parsed("d", series)))
    assert {"0", "1k", "2k", "3k", "4k", "0.2", "0.4", "0.6", "0.8"} < texts
    assert svg(chart("d", series)) == svg(chart("d", series))
