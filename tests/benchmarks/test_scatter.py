"""Names beside points: they cover neither each other nor a point."""

import numpy as np

from benchmarks.scatter import LETTER, LINE, WIDTH, place_labels, scatter


def test_labels_of_crowded_points_cover_neither_each_other_nor_a_dot():
    groups = [(f"name_{i}", [576], [20 + 0.05 * i]) for i in range(9)]
    groups += [("line", [12, 96, 500], [11.0, 20.0, 20.2]), ("alone", [24], [15.0])]
    axes = scatter(groups, "bits", "PSNR").axes[0]
    dots = np.concatenate([axes.transData.transform(line.get_xydata()) for line in axes.lines])
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [list(point) for point in zip(xs, ys, strict=True)] for _, xs, ys in groups
    ]
    boxes = {}  # (left, right, middle) of each label
    for text in axes.texts:
        left, middle = text.get_position()
        boxes[text.get_text()] = left, left + LETTER * len(text.get_text()), middle
    assert list(boxes) == [name for name, *_ in groups]
    area = axes.bbox
    for name, (left, right, middle) in boxes.items():
        assert area.x0 <= left and right <= WIDTH and area.y0 <= middle <= area.y1
        assert not any(left < x < right and abs(y - middle) < 4 for x, y in dots), name
        for other, (start, end, at) in boxes.items():
            apart = end <= left or right <= start or abs(at - middle) >= LINE - 0.1
            assert name == other or apart, (name, other)
    x, y = dots[-1]
    left, _, middle = boxes["alone"]  # with room beside its point
    assert 0 < left - x < 10 and abs(middle - y) < 0.2


def test_a_label_that_would_leave_the_picture_stands_on_the_other_side():
    ((x, y),) = place_labels([(900.0, 50.0, 70.0)], [(900.0, 50.0)], 946, 34, 500)
    assert x + 70 < 900 and y == 50
    places = place_labels([(10.0, 40.0, 70.0)] * 3, [(10.0, 40.0)], 946, 34, 500)
    assert len({y for _, y in places}) == 3 and min(y for _, y in places) >= 34
