"""report.html: numbers, curves and pictures of a run in one file that needs nothing else."""

import base64
import os
from html import escape
from pathlib import Path

from imgen.report import charts as plot
from imgen.report.metrics_log import SPEED_FIELDS, read_metrics
from imgen.report.progress import duration

MOST_PICTURES = 4  # of one name, evenly over the training; the last one large

CSS = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #667; --paper: #fafafa; --card: #fff;
  --rule: #e3e5e9; --s0: #2563eb; --s1: #e0672b; --s2: #2f9e5b; --s3: #a046c9; --s4: #b58a00;
  --s5: #d6366b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa0aa; --paper: #14161a;
  --card: #1d2026; --rule: #333842; --s0: #7aa7ff; --s1: #ff9d66; --s2: #6fd49a;
  --s3: #d39bf0; --s4: #e0bd45; --s5: #ff86ab; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
p.soft, figcaption, dt, summary { color: var(--soft); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .5rem 1rem;
  margin: 0 0 1rem; }
dt { font-size: .8rem; } dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
details { margin-bottom: 1rem; }
.charts, .strip { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
.chart, figure { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; }
.chart { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
.chart text { fill: var(--ink); } .chart .tick { fill: var(--soft); }
.title { font-size: 14px; font-weight: 600; } .end { text-anchor: end; }
.middle { text-anchor: middle; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.raw { opacity: .25; stroke-width: 1; }
figure { margin: 0 0 1rem; padding: .75rem; width: fit-content; max-width: 100%; }
figcaption { font-size: .9rem; margin-top: .4rem; }
img { display: block; max-width: 100%; height: auto; image-rendering: pixelated; }
figure.large img { width: min(100%, 44rem); }
""" + "".join(
    f".line.s{i} {{ stroke: var(--s{i}); }} .dot.s{i}, .chart .legend.s{i} {{ fill: var(--s{i}); }}\n"
    for i in range(6)
)


def summarize(rows: list[dict]) -> dict[str, dict[str, float]]:
    """Per stage: its last step, seconds and the newest value of each metric, validation first."""
    stages: dict[str, dict] = {}
    for row in rows:
        stages.setdefault(row["stage"], {}).update(row)
    return {
        stage: {
            "steps": last["step"],
            "seconds": last.get("seconds"),
            **{k: v for k, v in sorted(last.items(), key=_rank) if _is_curve(k)},
        }
        for stage, last in stages.items()
    }


def _is_curve(key: str) -> bool:
    return key not in ("stage", "step", *SPEED_FIELDS)


def _rank(item) -> tuple:
    key = item[0]
    return (not key.startswith("val/"), not key.endswith("loss"), key)


def _show(key: str, value: float | None) -> str:
    if value is None:
        return "not finite"
    if key == "steps":
        return f"{value:,}"
    return duration(value) if key == "seconds" else plot.number(value)


def _name(key: str) -> str:
    return "time" if key == "seconds" else key.replace("_", " ")


def summary_text(rows: list[dict]) -> str:
    """The summary for the terminal: one line per number."""
    lines = []
    for stage, values in summarize(rows).items():
        lines.append(stage)
        lines += [f"  {_name(k):<32} {_show(k, v)}" for k, v in values.items()]
    return "\n".join(lines)


def _numbers(values: dict[str, float]) -> str:
    tiles = [
        f"<div><dt>{escape(_name(k))}</dt><dd>{_show(k, v)}</dd></div>" for k, v in values.items()
    ]
    return f"<dl>{''.join(tiles)}</dl>"


def _charts(rows: list[dict]) -> str:
    """One chart per metric, training and validation together; losses over a wide range get a
    logarithmic axis."""
    keys = {k for row in rows for k in row if _is_curve(k)}
    speed = {"images_per_second"} & {k for row in rows for k in row}
    names = sorted(
        {k.removeprefix("val/") for k in keys}, key=lambda k: (not k.endswith("loss"), k)
    )
    charts = []
    for name in [*names, *speed]:
        series, values = [], []
        for label, key in (("train", name), ("val", f"val/{name}")):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            series.append((label, [x for x, _ in points], [y for _, y in points]))
            values += [y for _, y in points]
        wide = "loss" in name and min(values) > 0 and max(values) > 20 * min(values)
        charts.append(plot.chart(name.replace("_", " "), series, log=wide))
    return f'<div class="charts">{"".join(charts)}</div>'


def _figure(path: Path, css: str) -> str:
    name, _, step = path.stem.rpartition("_")
    data = base64.b64encode(path.read_bytes()).decode()
    caption = escape(f"{name.replace('_', ' ')}, step {int(step)}")
    return (
        f'<figure class="{css}"><img alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _pictures(folder: Path) -> str:
    names: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*_[0-9]*.png")):
        names.setdefault(path.stem.rpartition("_")[0], []).append(path)
    parts = []
    for found in names.values():
        *earlier, last = plot.thin(found, MOST_PICTURES)
        parts.append(_figure(last, "large"))
        if earlier:
            strip = "".join(_figure(path, "small") for path in earlier)
            parts.append(
                f'<details><summary>Earlier</summary><div class="strip">{strip}</div></details>'
            )
    return "".join(parts)


def write_report(workdir: str | Path) -> Path:
    """Writes RUN/report.html from RUN/metrics.jsonl and RUN/samples; returns its path."""
    workdir = Path(workdir)
    rows = read_metrics(workdir / "metrics.jsonl")
    title = escape(workdir.absolute().name)
    body = [f"<h1>{title}</h1>", f'<p class="soft">{escape(str(workdir.absolute()))}</p>']
    for stage, values in summarize(rows).items():
        body.append(f"<h2>{escape(stage.replace('_', ' ').capitalize())}</h2>")
        body.append(_numbers(values))
        body.append(_pictures(workdir / "samples" / stage))
        body.append(_charts([row for row in rows if row["stage"] == stage]))
    html = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}: imgen report</title><style>{CSS}</style></head>"
        f"<body>{''.join(body)}</body></html>\n"
    )
    path, unfinished = workdir / "report.html", workdir / "report.html.tmp"
    unfinished.write_text(html)
    os.replace(unfinished, path)
    return path
