"""A comparison as a table in Markdown and as one HTML page with charts and pictures."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from imgen.report.run_page import CSS


def cells(row: Mapping, columns: Mapping[str, str]) -> list[str]:
    """A row's entries, as text: counts with commas, nothing for what it has not."""

    def text(value) -> str:
        return f"{value:,}" if isinstance(value, int) else "" if value is None else str(value)

    return [text(row.get(key)) for key in columns]


def write_table(path: Path, rows: Sequence[Mapping], columns: Mapping[str, str], note: str) -> str:
    """Markdown: a line for each row, the columns by name, a note below."""
    lines = [[*columns.values()], ["---", *["--:"] * (len(columns) - 1)]]
    lines += [cells(row, columns) for row in rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{note}\n"
    path.write_text(text)
    return text


def write_page(
    path: Path,
    title: str,
    rows: Sequence[Mapping],
    columns: Mapping[str, str],
    note: str,
    charts: Mapping[str, str],
    pictures: Mapping[str, Path],
) -> None:
    """One HTML file that needs no other: the table, then charts (SVG by heading), then pictures by name."""
    head = "".join(f"<th>{escape(name)}</th>" for name in columns.values())
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in cells(row, columns))}</tr>" for row in rows
    )
    drawn = "".join(f"<h2>{escape(heading)}</h2>{svg}" for heading, svg in charts.items())
    figures = "".join(figure(picture, name) for name, picture in pictures.items())
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{CSS} td, th {{ padding: 0 .8rem; text-align: right; }}</style></head><body>"
        f"<h1>{escape(title)}</h1><table><tr>{head}</tr>{body}</table><p>{escape(note)}</p>"
        f'{drawn}<h2>Pictures</h2><div class="strip">{figures}</div></body></html>\n'
    )


def figure(path: Path, name: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="pictures of {name}" src="data:image/png;base64,{data}">'
        f"<figcaption>{name}</figcaption></figure>"
    )
