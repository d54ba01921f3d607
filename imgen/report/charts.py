"""Line charts as SVG text, for the report: no plotting library, scales with the page."""

import itertools
import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 34, 30
MOST_POINTS = 400

Series = tuple[str, Sequence[float], Sequence[float]]  # name, x, y


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high]."""
    rough = (high - low) / about or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high]; powers only if the range is wide."""
    marks = (1,) if high / low > 1e3 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**p for p in powers for m in marks if low <= m * 10.0**p <= high]


def number(value: float) -> str:
    """1200000 -> "1.2M", 4000 -> "4k", 0.0003 -> "0.0003"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def smooth(ys: Sequence[float], span: int) -> list[float]:
    """Mean over `span` points around each (those that there are, at the ends), so without lag."""
    sums, reach = [0.0, *itertools.accumulate(ys)], span // 2

    def mean(first, end):
        return (sums[end] - sums[first]) / (end - first)

    return [mean(max(i - reach, 0), min(i + reach + 1, len(ys))) for i in range(len(ys))]


def thin(points: list, most: int = MOST_POINTS) -> list:
    """At most `most` of the points, evenly, the last one always among them."""
    stride = -(-len(points) // most) or 1
    return points[::-1][::stride][::-1]


def chart(title: str, series: Sequence[Series], *, log: bool = False, values: bool = True) -> str:
    """One chart of several series over the step. Values that are None or not finite are left out,
    as are those not above zero when `log` asks for a logarithmic axis. "" if nothing is left.

    values: whether the legend gives each series' last value.
    """

    def usable(y):
        return y is not None and math.isfinite(y) and (y > 0 or not log)

    lines = []  # (css class, name, points); a series keeps its colour though others are empty
    for i, (name, xs, ys) in enumerate(series):
        points = [(x, y) for x, y in zip(xs, ys, strict=True) if usable(y)]
        if points:
            lines.append((f"s{i}", name, points))
    if not lines:
        return ""
    xs = [x for _, _, points in lines for x, _ in points]
    ys = [y for _, _, points in lines for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    x0, x1 = (x0, x1) if x1 > x0 else (x0 - 1, x1 + 1)
    if log:
        y0, y1 = y0 / 1.1, y1 * 1.1
    else:
        margin = 0.06 * (y1 - y0) or 0.1 * abs(y1) or 1.0
        y0, y1 = y0 - margin, y1 + margin
    height = math.log if log else float

    def px(x):
        return LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)

    def py(y):
        share = (height(y) - height(y0)) / (height(y1) - height(y0))
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def line(points, css):
        text = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in thin(points))
        return f'<polyline class="{css}" points="{text}"/>'

    label = escape(title)
    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">']
    parts.append(f'<text class="title" x="{LEFT}" y="18">{label}{" (log)" if log else ""}</text>')
    for y in log_ticks(y0, y1) if log else ticks(y0, y1):
        at = f"{py(y):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text class="tick end" x="{LEFT - 6}" y="{py(y) + 4:.1f}">{number(y)}</text>'
        )
    for x in ticks(x0, x1):
        parts.append(
            f'<text class="tick middle" x="{px(x):.1f}" y="{HEIGHT - 10}">{number(x)}</text>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    legend = WIDTH - RIGHT
    for colour, name, points in reversed(lines):
        if len(points) > 60:  # noisy: the values faintly, their running mean on top
            parts.append(line(points, f"line {colour} raw"))
            mean = smooth([y for _, y in points], len(points) // 30)
            points = [(x, y) for (x, _), y in zip(points, mean, strict=True)]
        parts.append(line(points, f"line {colour}"))
        x, y = points[-1]
        parts.append(f'<circle class="dot {colour}" cx="{px(x):.1f}" cy="{py(y):.1f}" r="3"/>')
        text = f"{name} {number(y)}" if values else name
        parts.append(f'<text class="legend end {colour}" x="{legend}" y="18">{escape(text)}</text>')
        legend -= 7 * len(text) + 12
    return "".join([*parts, "</svg>"])


def place_labels(
    anchors: Sequence[tuple[float, float, float]],
    dots: Sequence[tuple[float, float]],
    right: float,
    top: float,
    bottom: float,
) -> list[tuple[float, float]]:
    """Where labels of one line stand beside their points: the left end and the middle, (x, y), of each.

    anchors: (x, y, width of the label) of each point, in pixels; dots: all points.
    A label stands to the right of its point, or to the left where it would pass `right`. It moves up or down,
    as little as it can within [top, bottom], until it covers no label before it and no dot; where there is no
    such place, it may cover dots.
    """
    line, taken = 14.0, []
    shifts = [
        sign * i * line / 2 for i in range(int(2 * (bottom - top) / line)) for sign in (1, -1)
    ]

    def free(x: float, y: float, width: float, avoid_dots: bool) -> bool:
        if not top <= y <= bottom:
            return False
        if avoid_dots and any(-4 < dx - x < width + 4 and abs(dy - y) < 9 for dx, dy in dots):
            return False
        return not any(
            x < other_x + other_width and other_x < x + width and abs(y - other_y) < line
            for other_x, other_y, other_width in taken
        )

    for x, y, width in anchors:
        x = x + 8 if x + 8 + width <= right else x - 8 - width
        tries = [(avoid, y + shift) for avoid in (True, False) for shift in shifts]
        taken.append((x, next((at for avoid, at in tries if free(x, at, width, avoid)), y), width))
    return [(x, y) for x, y, _ in taken]


def scatter(groups: Sequence[Series], x_name: str, y_name: str) -> str:
    """Named points over a logarithmic axis of x > 0, twice as large as `chart`; the points of a group are
    joined, and its name stands beside the last, where no other name does, tied to it if it is far."""
    width, height = 2 * WIDTH, 2 * HEIGHT
    xs = [math.log2(x) for _, group_xs, _ in groups for x in group_xs]
    ys = [y for _, _, group_ys in groups for y in group_ys]
    x0, x1, y0, y1 = min(xs) - 0.5, max(xs) + 1.5, min(ys), max(ys)
    margin = 0.06 * (y1 - y0) or 1.0
    y0, y1 = y0 - margin, y1 + margin

    def px(x):
        return LEFT + (math.log2(x) - x0) / (x1 - x0) * (width - LEFT - RIGHT)

    def py(y):
        return height - BOTTOM - (y - y0) / (y1 - y0) * (height - TOP - BOTTOM)

    parts = [
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(y_name)}">',
        f'<text class="title" x="{LEFT}" y="18">{escape(y_name)} over {escape(x_name)} (log)</text>',
    ]
    for y in ticks(y0, y1):
        at = f"{py(y):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{width - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(
            f'<text class="tick end" x="{LEFT - 6}" y="{py(y) + 4:.1f}">{number(y)}</text>'
        )
    for power in range(math.ceil(x0), math.floor(x1) + 1):
        parts.append(
            f'<text class="tick middle" x="{px(2.0**power):.1f}" y="{height - 10}">{2**power}</text>'
        )
    dots = [
        [(px(x), py(y)) for x, y in zip(group_xs, group_ys, strict=True)]
        for _, group_xs, group_ys in groups
    ]
    places = place_labels(
        [(*points[-1], 7.0 * len(name)) for (name, _, _), points in zip(groups, dots, strict=True)],
        [dot for points in dots for dot in points],
        width - RIGHT, TOP, height - BOTTOM - 7,
    )  # fmt: skip
    for i, ((name, _, _), points, at) in enumerate(zip(groups, dots, places, strict=True)):
        colour = f"s{i % 6}"
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline class="line {colour}" points="{joined}"/>')
        parts += [
            f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in points
        ]
        (x, y), end = points[-1], at[0] if at[0] > points[-1][0] else at[0] + 7 * len(name)
        if abs(at[1] - y) > 14:
            line = f'x1="{x:.1f}" y1="{y:.1f}" x2="{end:.1f}" y2="{at[1]:.1f}"'
            parts.append(f'<line class="grid" {line}/>')
        text = f'x="{at[0]:.1f}" y="{at[1] + 4:.1f}"'
        parts.append(f'<text class="legend {colour}" {text}>{escape(name)}</text>')
    return "".join([*parts, "</svg>"])
