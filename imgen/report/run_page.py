"""report.html of a run: the newest numbers, pictures and curves of every stage."""

import json
from collections.abc import Sequence
from pathlib import Path

from imgen.report.metrics_log import read_metrics
from imgen.report.summary import is_curve, shown, summarize

MOST_PICTURES = 4  # of one name, evenly over the training; the last one large


def write_report(workdir: str | Path) -> Path:
    """Writes RUN/report.html from RUN/metrics.jsonl and RUN/samples; returns its path."""
    from imgen.report import page  # here, for matplotlib's import takes a second

    workdir = Path(workdir)
    rows = read_metrics(workdir / "metrics.jsonl")
    sections = [
        page.Section(
            heading=stage.replace("_", " ").capitalize(),
            numbers=shown(values),
            histories=pictures(workdir / "samples" / stage),
            charts=page.drawn(charts([row for row in rows if row["stage"] == stage])),
        )
        for stage, values in summarize(rows).items()
    ]
    if names := read_classes(workdir):
        named = " · ".join(f"{label} {name}" for label, name in enumerate(names))
        sections.append(page.Section(heading="Classes", texts=[named]))
    path = workdir / "report.html"
    page.write_page(path, workdir.absolute().name, str(workdir.absolute()), sections)
    return path


def write_classes(workdir: str | Path, names: Sequence[str] | None) -> None:
    """Keeps the names of a run's classes in RUN/classes.json, in the order of their numbers."""
    if names:
        text = json.dumps(list(names), ensure_ascii=False, indent=0)
        (Path(workdir) / "classes.json").write_text(text, "utf-8")


def read_classes(workdir: str | Path) -> list[str]:
    """Returns the names of a run's classes, none where it keeps none."""
    try:
        names = json.loads((Path(workdir) / "classes.json").read_text("utf-8"))
    except (OSError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def charts(rows: list[dict]) -> dict:
    """Returns a chart for each metric of a stage's rows, training and validation together, by its name;
    losses over a wide range get a logarithmic axis."""
    from imgen.report.charts import chart

    keys = {k for row in rows for k in row}
    metrics = {k.removeprefix("val/") for k in keys if is_curve(k)}
    names = sorted(metrics, key=lambda k: (not k.endswith("loss"), k))
    found = {}
    for name in [*names, *({"images_per_second"} & keys)]:
        series, values = [], []
        for label, key in (("train", name), ("val", f"val/{name}")):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            series.append((label, [x for x, _ in points], [y for _, y in points]))
            values += [y for _, y in points]
        wide = "loss" in name and values and 0 < 20 * min(values) < max(values)
        title = name.replace("_", " ")
        found[title] = chart(title, series, log=bool(wide))
    return found


def pictures(folder: Path) -> list[tuple]:
    """Returns for each name of pictures NAME_STEP.png the last one and a few earlier ones."""
    from imgen.report.charts import thin
    from imgen.report.page import png

    names: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*_[0-9]*.png")):
        names.setdefault(path.stem.rpartition("_")[0], []).append(path)

    def figure(path: Path):
        name, _, step = path.stem.rpartition("_")
        return png(path, f"{name.replace('_', ' ')}, step {int(step)}")

    histories = []
    for found in names.values():
        *earlier, last = map(figure, thin(found, MOST_PICTURES))
        histories.append((last, earlier))
    return histories
