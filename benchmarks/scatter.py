"""Named points over a logarithmic axis, whose names cover neither each other nor a point."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from imgen.report.charts import COLOURS, RULE, Series, empty

WIDTH, HEIGHT, LETTER, LINE = 960, 540, 7.0, 14.0  # points: of the figure and of a name's text


def scatter(groups: Sequence[Series], x_name: str, y_name: str) -> Figure:
    """Returns a figure of groups of points over x > 0; those of a group are joined, and its name stands
    beside the last one, tied to it where it is far."""
    figure, axes = empty(f"{y_name} over {x_name} (log)", WIDTH, HEIGHT)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=20))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(groups))]
    for (_, xs, ys), colour in zip(groups, colours, strict=True):
        axes.plot(xs, ys, color=colour, linewidth=2, marker="o", markersize=8)
    every = np.concatenate([xs for _, xs, _ in groups])
    axes.set_xlim(every.min() / 1.4, every.max() * 2.8)  # a name's room beside the last point
    axes.margins(y=0.06)
    axes.autoscale_view(scalex=False)
    dots = [axes.transData.transform(np.column_stack([xs, ys])) for _, xs, ys in groups]
    box = axes.bbox
    places = place_labels(
        [(*of_group[-1], LETTER * len(name)) for (name, *_), of_group in zip(groups, dots, strict=True)],
        np.concatenate(dots).tolist(), box.x1, box.y0 + LINE / 2, box.y1,
    )  # fmt: skip
    for (name, *_), colour, of_group, (left, middle) in zip(
        groups, colours, dots, places, strict=True
    ):
        x, y = of_group[-1]
        far = abs(middle - y) > LINE
        axes.annotate(
            name, (x, y), (left, middle), xycoords="figure pixels", textcoords="figure pixels", color=colour,
            fontsize=12, va="center", gid=f"name of {name}",
            arrowprops=dict(arrowstyle="-", color=RULE, relpos=(0 if left > x else 1, 0.5)) if far else None,
        )  # fmt: skip
    return figure


def place_labels(
    anchors: Sequence[tuple[float, float, float]],
    dots: Sequence[tuple[float, float]],
    right: float,
    bottom: float,
    top: float,
) -> list[tuple[float, float]]:
    """Returns where labels of one line stand beside their points: each one's left end and middle, (x, y).

    anchors: (x, y, width of the label) of each point; dots: all points; upwards, as bottom < top.
    A label stands to the right of its point, or to the left where it would pass `right`. It moves up or down,
    as little as it can within [bottom, top], until it covers no label before it and no dot; where there is no
    such place, it may cover dots.
    """
    steps = range(int(2 * (top - bottom) / LINE))
    shifts = [sign * i * LINE / 2 for i in steps for sign in (-1, 1)]
    taken: list[tuple[float, float, float]] = []

    def free(x: float, y: float, width: float, avoid_dots: bool) -> bool:
        if not bottom <= y <= top:
            return False
        if avoid_dots and any(-4 < dx - x < width + 4 and abs(dy - y) < 9 for dx, dy in dots):
            return False
        return not any(
            x < other_x + other_width and other_x < x + width and abs(y - other_y) < LINE
            for other_x, other_y, other_width in taken
        )

    for x, y, width in anchors:
        x = x + 8 if x + 8 + width <= right else x - 8 - width
        tries = [(avoid, y + shift) for avoid in (True, False) for shift in shifts]
        taken.append((x, next((at for avoid, at in tries if free(x, at, width, avoid)), y), width))
    return [(x, y) for x, y, _ in taken]
