import re

from imgen.report import charts as plot


def labels(svg):
    """(left, right, middle) of each label, at 7 pixels a letter."""
    found = re.findall(r'<text class="legend[^"]*" x="([\d.]+)" y="([\d.]+)">(\w+)</text>', svg)
    return {name: (float(x), float(x) + 7 * len(name), float(y) - 4) for x, y, name in found}


def test_labels_of_crowded_points_cover_neither_each_other_nor_a_dot():
    groups = [(f"name_{i}", [576], [20 + 0.05 * i]) for i in range(9)]
    groups += [("line", [12, 96, 500], [11.0, 20.0, 20.2]), ("alone", [24], [15.0])]
    svg = plot.scatter(groups, "bits", "PSNR")
    boxes = labels(svg)
    assert len(boxes) == len(groups)
    dots = re.findall(r'<circle class="dot \w+" cx="([\d.]+)" cy="([\d.]+)"', svg)
    dots = [(float(x), float(y)) for x, y in dots]
    for name, (left, right, middle) in boxes.items():
        assert plot.LEFT <= left and right <= 2 * plot.WIDTH and plot.TOP <= middle
        assert not any(left < x < right and abs(y - middle) < 4 for x, y in dots), name
        for other, (start, end, at) in boxes.items():
            apart = end <= left or right <= start or abs(at - middle) >= 13.9
            assert name == other or apart, (name, other)
    x, y = dots[-1]
    left, _, middle = boxes["alone"]  # with room beside its point
    assert 0 < left - x < 10 and abs(middle - y) < 0.2


def test_a_label_that_would_leave_the_picture_stands_on_the_other_side():
    ((x, y),) = plot.place_labels([(900.0, 50.0, 70.0)], [(900.0, 50.0)], 946, 34, 500)
    assert x + 70 < 900 and y == 50
    places = plot.place_labels([(10.0, 40.0, 70.0)] * 3, [(10.0, 40.0)], 946, 34, 500)
    assert len({y for _, y in places}) == 3 and min(y for _, y in places) >= 34
