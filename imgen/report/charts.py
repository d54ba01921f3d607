"""Line charts by matplotlib, without its global state (no pyplot, no GUI), written as SVG."""

import io
import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from imgen.report.summary import number

MOST_POINTS = 400
NOISY = 60  # points, from which on the running mean is drawn over them
INK, SOFT, RULE = "#1c2024", "#666677", "#e3e5e9"
COLOURS = ("#2563eb", "#e0672b", "#2f9e5b", "#a046c9", "#b58a00", "#d6366b")

Series = tuple[str, Sequence[float], Sequence[float]]  # name, x, y


def empty(title: str, width: int = 480, height: int = 270) -> tuple[Figure, Axes]:
    """Returns a figure of so many points and its axes: a title, horizontal rules, an x axis, no frame."""
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    axes = figure.add_axes((58 / width, 30 / height, 1 - 72 / width, 1 - 64 / height))
    axes.set_title(title, loc="left", y=1, fontsize=14, fontweight="bold", color=INK)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=SOFT)
    axes.grid(axis="y", color=RULE)
    axes.tick_params(which="both", length=0, labelsize=12, labelcolor=SOFT)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(max(5, height // 60), steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    return figure, axes


def chart(
    title: str, series: Sequence[Series], *, log: bool = False, values: bool = True
) -> Figure | None:
    """Returns one chart of several series, or None if there is nothing to show.

    Values that are None or not finite are left out, as are those not above zero when `log` asks for a
    logarithmic axis. Of many points at most MOST_POINTS are drawn, faintly, their running mean on top.
    values: whether the legend gives each series' last value.
    """
    figure, axes = empty(f"{title} (log)" if log else title)
    if log:
        axes.set_yscale("log", subs=())
    for (name, xs, ys), colour in zip(series, COLOURS * len(series), strict=False):
        usable = [y is not None and math.isfinite(y) and (y > 0 or not log) for y in ys]
        if not any(usable):
            continue  # the others keep their colours
        points = np.array(list(zip(xs, ys, strict=True)), float)[usable]
        label = f"{name} {number(points[-1, 1])}" if values else name
        if len(points) > NOISY:
            axes.plot(*thin(points).T, color=colour, linewidth=1, alpha=0.25)
            points[:, 1] = smooth(points[:, 1], len(points) // 30)
        axes.plot(
            *thin(points).T, color=colour, linewidth=2, marker="o", markevery=[-1], label=label
        )
    if not axes.lines:
        return None
    axes.margins(x=0.01, y=0.06)
    if log:
        low, high = axes.get_ylim()
        marks = (1,) if high / low > 1e3 else (1, 2, 5)
        axes.yaxis.set_major_locator(LogLocator(subs=marks, numticks=12))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=len(series), borderaxespad=0, frameon=False,
        handlelength=0.6, handletextpad=0.3, columnspacing=1, fontsize=12, labelcolor="linecolor",
    )  # fmt: skip
    return figure


def smooth(ys: Sequence[float], span: int) -> np.ndarray:
    """Returns means over `span` points around each (those that there are, at the ends), so without lag."""
    window = np.ones(2 * (span // 2) + 1)
    return np.convolve(ys, window, "same") / np.convolve(np.ones(len(ys)), window, "same")


def thin(points: Sequence, most: int = MOST_POINTS) -> Sequence:
    """Returns at most `most` of the points, evenly, the last one always among them."""
    stride = -(-len(points) // most) or 1
    return points[::-1][::stride][::-1]


def svg(figure: Figure) -> bytes:
    """Returns the figure as an SVG file: the same bytes for the same figure, text as text."""
    file = io.BytesIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": "imgen"}
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context(settings):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return file.getvalue()
