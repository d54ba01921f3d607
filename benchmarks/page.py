"""The comparison as a table in Markdown and as one HTML page with curves and samples."""

import base64
from html import escape
from pathlib import Path

from imgen.training import plot
from imgen.training.report import CSS

COLUMNS = {
    "plan": "order",
    "parameters": "parameters",
    "nats_per_image": "nats/image",
    "calls": "calls/image",
    "images_per_second_1": "images/s, batch 1",
    "images_per_second_64": "images/s, batch 64",
    "images_per_second_b": "at size B, batch 1",
    "train_images_per_second": "training images/s",
}
BOUND = (
    "≤: an upper bound, for one code a call in random order; the calls and speeds beside it are those of the "
    "parallel decoding that draws the samples."
)


def cells(row: dict) -> list[str]:
    """A row's entries, as text."""
    shown = {**row, "parameters": f"{row['parameters']:,}"}
    if row["is_bound"]:
        shown["nats_per_image"] = f"≤ {row['nats_per_image']}"
    return [str(shown.get(key, "")) for key in COLUMNS]


def write_table(path: Path, rows: list[dict]) -> str:
    lines = [[*COLUMNS.values()], ["---", *["--:"] * (len(COLUMNS) - 1)], *map(cells, rows)]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines) + f"\n{BOUND}\n"
    path.write_text(text)
    return text


def write_page(out: Path, rows: list[dict], run: str) -> None:
    """DIR/compare.html, which needs no other file."""
    head = "".join(f"<th>{name}</th>" for name in COLUMNS.values())
    body = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in cells(row))}</tr>" for row in rows)
    series = [(row["plan"], *zip(*row["curve"], strict=True)) for row in rows]
    first = rows[0]
    title = f"Orders after {first['steps']:,} steps on the codes of {run} ({first['device']})"
    figures = "".join(figure(out / f"{row['plan']}.png", row["plan"]) for row in rows)
    (out / "compare.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Orders</title>'
        f"<style>{CSS} td, th {{ padding: 0 .8rem; text-align: right; }}</style></head><body>"
        f"<h1>{escape(title)}</h1><table><tr>{head}</tr>{body}</table><p>{BOUND}</p>"
        f"<h2>Held-out nats per image over training steps</h2>{plot.chart('', series, values=False)}"
        f'<h2>Samples</h2><div class="strip">{figures}</div></body></html>\n'
    )


def figure(path: Path, name: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="samples of {name}" src="data:image/png;base64,{data}">'
        f"<figcaption>{name}</figcaption></figure>"
    )
