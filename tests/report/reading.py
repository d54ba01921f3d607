"""What a written page holds, read back from its HTML: for tests of pages."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from imgen.report.charts import COLOURS

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """Pictures (alt -> bytes) of each kind, charts (alt -> parsed SVG) and the text's pieces in order.

    Raises AssertionError if the page would fetch anything.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.pngs: dict[str, bytes] = {}
        self.charts: dict[str, ElementTree.Element] = {}
        self.texts: list[str] = []
        html = path.read_text()
        assert "http:" not in html and "https:" not in html and "url(" not in html
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        assert tag not in ("link", "script", "iframe") and "href" not in attrs
        if "src" in attrs:
            kind, data = re.fullmatch(r"data:image/([a-z+]+);base64,(.*)", attrs["src"]).groups()
            data = base64.b64decode(data)
            if kind == "png":
                self.pngs[attrs["alt"]] = data
            else:
                self.charts[attrs["alt"]] = chart = ElementTree.fromstring(data)
                for element in chart.iter():
                    for name, value in element.attrib.items():
                        assert not name.endswith("href") or value.startswith("#")

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())

    def after(self, text: str) -> str:
        """The piece of text that follows this one."""
        return self.texts[self.texts.index(text) + 1]


def words(chart: ElementTree.Element) -> list[str]:
    """All text of a chart: title, ticks, legend."""
    return ["".join(element.itertext()) for element in chart.iter(f"{SVG}text")]


def line(chart: ElementTree.Element, series: int, faint: bool = False) -> np.ndarray:
    """The points [N, 2], in the picture's units, of the series' line, or of the faint one below it."""
    for path in chart.iter(f"{SVG}path"):
        style = path.get("style", "")
        is_line = "fill: none" in style and f"stroke: {COLOURS[series]}" in style
        if is_line and ("stroke-opacity" in style) == faint and path.get("clip-path"):
            return np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d")), float)
    raise AssertionError(f"no line of series {series}")


def assert_shows(points: np.ndarray, xs, ys, log: bool = False) -> None:
    """Asserts that the points are (x, y) on straight axes, the y axis upwards."""
    ys = np.log10(ys) if log else np.asarray(ys, float)
    for drawn, values, sign in ((points[:, 0], np.asarray(xs, float), 1), (points[:, 1], ys, -1)):
        slope, start = np.polyfit(values, drawn, 1)
        assert slope * sign > 0
        np.testing.assert_allclose(slope * values + start, drawn, atol=2e-3)
