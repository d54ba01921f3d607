"""One HTML page that needs no other file: headings, numbers, tables, pictures and charts."""

import base64
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from imgen.report.charts import svg

TEMPLATE = Path(__file__).with_name("page.html")


@dataclasses.dataclass(frozen=True)
class Picture:
    """What stands in the page itself: a picture's bytes as an address, and what it shows."""

    caption: str
    uri: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of a page, shown in this order; what is empty is left out.

    tables: rows of cells, the first of which is the head. histories: the last picture of a kind, shown large,
    and earlier ones, folded away. pictures and charts stand in rows; one chart alone takes a row's width.
    """

    heading: str = ""
    texts: Sequence[str] = ()
    numbers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tables: Sequence[Sequence[Sequence[str]]] = ()
    histories: Sequence[tuple[Picture, Sequence[Picture]]] = ()
    pictures: Sequence[Picture] = ()
    charts: Sequence[Picture] = ()


def png(path: Path, caption: str) -> Picture:
    """Returns a PNG file's picture."""
    return _inline(path.read_bytes(), "image/png", caption)


def drawn(charts: Mapping[str, Figure | None]) -> list[Picture]:
    """Returns the charts' pictures by caption, without those that show nothing."""
    return [_inline(svg(c), "image/svg+xml", name) for name, c in charts.items() if c is not None]


def _inline(data: bytes, mime: str, caption: str) -> Picture:
    return Picture(caption, f"data:{mime};base64,{base64.b64encode(data).decode()}")


def write_page(path: Path, title: str, note: str, sections: Sequence[Section]) -> None:
    """Writes the page, at once: whoever reads meanwhile sees the one before."""
    template = jinja2.Template(TEMPLATE.read_text("utf-8"), autoescape=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(template.render(title=title, note=note, sections=sections), "utf-8")
    os.replace(unfinished, path)
